"""Starts several worker processes of one study on this machine, and waits for them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from lineage.errors import (
    IntegrityError,
    LineageError,
    NotFoundError,
    RegistryError,
    TrainingError,
    UsageError,
)
from lineage.training.devices import share_of_machine

COMMAND = "study-worker"

_SECONDS_BETWEEN_LOOKS = 0.2
_ERRORS: dict[int, type[LineageError]] = {
    kind.exit_code: kind for kind in (TrainingError, UsageError, NotFoundError, IntegrityError, RegistryError)
}


@dataclass(frozen=True)
class Job:
    """Task of a worker process, which reads it from standard input, since URLs may hold passwords.

    Attributes:
        recipe: Resolved recipe as JSON.
        storage: URL of the study's database.
        worker: Number of the worker, counted from 1.
    """

    recipe: str
    storage: str
    worker: int

    def to_json(self) -> str:
        """Return the job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a job that ``to_json`` wrote."""
        return cls(**json.loads(text))


def run_workers(jobs: Sequence[Job], grace: int, notify: Callable[[str], None]) -> list[int]:
    """Run a process for each job until all have ended; one that dies is not replaced.

    Args:
        jobs: Jobs, one for each worker.
        grace: Seconds of silence after which other workers take a dead worker's trial over.
        notify: Callback for a one-line message about each worker that was killed by a signal.

    Returns:
        Exit codes of the processes; a negative one is the number of a signal.

    Raises:
        KeyboardInterrupt: If this process is interrupted; the workers have marked their trials by then.
    """
    processes = [_start(job, len(jobs)) for job in jobs]
    codes: list[int | None] = [None] * len(jobs)
    try:
        while None in codes:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for place, process in enumerate(processes):
                if codes[place] is None:
                    codes[place] = process.poll()
                    _notify_of_death(jobs[place], codes[place], grace, notify)
    except BaseException:
        _end(processes)
        raise
    return [process.returncode for process in processes]


def error_of(codes: Sequence[int], study: str) -> LineageError:
    """Return the error for workers that left a study before its trials had ended.

    Args:
        codes: Exit codes of the workers.
        study: Name of the study.
    """
    kinds = [_ERRORS[code] for code in codes if code in _ERRORS]
    kind = kinds[0] if kinds else TrainingError
    return kind(
        f"The workers of study '{study}' must stay until all trials have ended, but left with"
        f" {', '.join(map(str, codes))}; run the same command again, it continues."
    )


def _start(job: Job, workers: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "lineage", COMMAND],
        env=os.environ | share_of_machine(job.worker - 1, workers),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on once
    )
    assert process.stdin is not None
    process.stdin.write(job.to_json())
    process.stdin.close()
    return process


def _notify_of_death(job: Job, code: int | None, grace: int, notify: Callable[[str], None]) -> None:
    if code is not None and code < 0:
        notify(
            f"worker {job.worker} died of {signal.Signals(-code).name}; its trial is tried again after"
            f" {grace} s of silence"
        )


def _end(processes: Sequence["subprocess.Popen[str]"]) -> None:
    """Interrupt all workers and wait for them to mark their trials; interrupted again, kill them."""
    try:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
        raise
