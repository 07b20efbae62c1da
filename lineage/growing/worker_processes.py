"""Worker processes of one command on this machine: started, listened to, and ended together."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator

from lineage.errors import UsageError
from lineage.processes import LAUNCHED, uninterrupted
from lineage.training.devices import share_of_machine

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_FOR_LAST_LINES = 10  # loader processes of a killed worker keep its output open for some seconds
_MESSAGE = "\x1e"  # the record separator of RFC 7464, which no printed line holds

Hear = Callable[[int, str], None]


def run_workers(
    command: str,
    jobs: Sequence[str],
    at_once: int,
    ended: Callable[[int, int], None],
    hear: Hear | None = None,
    files: Sequence[int] = (),
) -> list[int]:
    """Run ``lineage command`` in a process for each job, some at once, until all have ended.

    Cores and GPUs are shared out among the processes that run at once. One that fails or dies is not
    replaced, and the others go on.

    Args:
        command: Hidden command of the worker, which begins with ``receive_job``.
        jobs: Jobs, one line each; they go over standard input, since URLs may hold passwords.
        at_once: Number of processes at the same time.
        ended: Callback for the index of a job and the exit code of its process; a negative one is the number
            of a signal.
        hear: Callback for the index of a job and a line that its process printed to either stream; without
            one, errors go to this process's own standard error.
        files: Descriptors of open files that the processes inherit under the same numbers.

    Returns:
        Exit codes of the processes, one for each job.

    Raises:
        KeyboardInterrupt: If this process is interrupted; the workers have marked their runs by then.
    """
    return _Workers(command, jobs, at_once, ended, hear, files).run()


def receive_job() -> str:
    """Return this worker's job, and from now on interrupt this process if the one that sent it has died."""
    job = sys.stdin.readline()
    threading.Thread(target=_await_end, args=(sys.stdin.fileno(),), daemon=True).start()
    return job


def send_message(message: dict[str, Any]) -> None:
    """Send plain values to the process that started this worker."""
    sys.stdout.write(f"{_MESSAGE}{json.dumps(message)}\n")
    sys.stdout.flush()


def read_message(line: str) -> tuple[str, dict[str, Any] | None]:
    """Return what a line that a worker printed says to people, and the message in it, if there is one.

    A message follows text where that had no end of line. A torn one is text.
    """
    text, mark, found = line.partition(_MESSAGE)
    if not mark:
        return line, None
    try:
        message: dict[str, Any] = json.loads(found)
    except json.JSONDecodeError:
        return line.replace(_MESSAGE, " "), None
    return text, message


def require_one_process(option: str, number: int, accelerator: Accelerator) -> None:
    """Refuse several workers where a launcher has started several processes that train together.

    Raises:
        UsageError: If both are there.
    """
    if number > 1 and accelerator.num_processes > 1:
        raise UsageError(
            f"{option} must be 1 where a launcher has started {accelerator.num_processes} processes that"
            f" train together, but got {number}; leave out one of the two."
        )


class _Worker:
    """A running worker process.

    Args:
        index: Index of its job.
        process: The process.
        lines: Queue for what it prints; None if that is not listened to.
    """

    def __init__(
        self,
        index: int,
        process: "subprocess.Popen[str]",
        lines: "queue.SimpleQueue[tuple[int, str]] | None",
    ) -> None:
        self.index = index
        self.process = process
        self._relay = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._relay.start()

    def join(self) -> int:
        """Wait for the process and its last lines, and return its exit code."""
        code = self.process.wait()
        self._relay.join(_SECONDS_FOR_LAST_LINES)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def _read(self, lines: "queue.SimpleQueue[tuple[int, str]] | None") -> None:
        if lines is not None and self.process.stdout is not None:
            with self.process.stdout as output:
                for line in output:
                    lines.put((self.index, line.rstrip("\n")))


class _Workers:
    """The worker processes of one call of ``run_workers``, whose arguments it takes."""

    def __init__(
        self,
        command: str,
        jobs: Sequence[str],
        at_once: int,
        ended: Callable[[int, int], None],
        hear: Hear | None,
        files: Sequence[int],
    ) -> None:
        self._command = command
        self._jobs = jobs
        self._at_once = at_once
        self._ended = ended
        self._hear = hear
        self._files = files
        self._lines: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._running: dict[int, _Worker] = {}  # by their place among those that run at once
        self._codes = [0] * len(jobs)

    def run(self) -> list[int]:
        """Run all jobs, and return their exit codes."""
        waiting = deque(range(len(self._jobs)))
        try:
            while waiting or self._running:
                for place in sorted(set(range(self._at_once)) - self._running.keys())[: len(waiting)]:
                    with uninterrupted():
                        self._running[place] = self._start(waiting.popleft(), place)
                self._listen(_SECONDS_BETWEEN_LOOKS)
                self._reap()
        except BaseException:
            self._end()
            raise
        return self._codes

    def _start(self, index: int, place: int) -> _Worker:
        listens = self._hear is not None
        process = subprocess.Popen(
            [sys.executable, "-m", "lineage", self._command],
            env=os.environ | share_of_machine(place, self._at_once) | {LAUNCHED: "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if listens else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if listens else None,
            text=True,
            errors="replace",
            pass_fds=self._files,
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on once
        )
        assert process.stdin is not None
        process.stdin.write(self._jobs[index] + "\n")
        process.stdin.flush()  # and stays open: its end tells the worker that this process has died
        return _Worker(index, process, self._lines if listens else None)

    def _listen(self, seconds: float) -> None:
        """Hear what was printed; if nothing was, wait so many seconds for it."""
        try:
            heard = self._lines.get(timeout=seconds) if seconds else self._lines.get_nowait()
            while True:
                if self._hear is not None:
                    self._hear(*heard)
                heard = self._lines.get_nowait()
        except queue.Empty:
            return

    def _reap(self) -> None:
        """Report the workers that have ended, after all that they printed."""
        for place, worker in list(self._running.items()):
            if worker.process.poll() is not None:
                self._codes[worker.index] = worker.join()
                del self._running[place]
                self._listen(0)
                self._ended(worker.index, self._codes[worker.index])

    def _end(self) -> None:
        """Interrupt all workers and wait for them to mark their runs; interrupted again, kill them."""
        workers = self._running.values()
        try:
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.terminate()
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            for worker in workers:
                worker.process.kill()
            raise


def _await_end(descriptor: int) -> None:
    """Wait for the end of a file, which comes when the process at its other end has closed it or died."""
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
