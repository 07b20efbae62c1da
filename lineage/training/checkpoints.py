"""The resume state of the one generation that is being trained."""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

_COMPLETE = "epoch-"
_PARTIAL = "partial"
_LOCK = "lock"

_locks: set[int] = set()  # open descriptors of this process


def _close_inherited() -> None:
    """Let go, in a process that was forked, of locks that its parent holds: it may outlive its parent."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_close_inherited)  # loader workers are forked


def state_home() -> Path:
    """Folder of all resume states: ``$LINEAGE_HOME``, or ``.lineage`` in the working directory."""
    return Path(os.environ.get("LINEAGE_HOME", ".lineage"))


class History:
    """What has happened in a generation so far; saved and restored with its weights.

    Attributes:
        epochs: One record of metrics an epoch.
        seconds: Time spent in training and evaluation, over all sessions.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The history as plain values."""
        return {"epochs": self.epochs, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.epochs = list(state["epochs"])
        self.seconds = float(state["seconds"])


class Checkpoint:
    """One generation's state on the local disk, complete or absent.

    A state is written to a partial folder, forced to the disk and then renamed: a process killed at any
    moment leaves either the former epoch's state or this one's. Accelerate writes weights as safetensors and
    the random states as pickle, so the folder is private (mode 0700) and never leaves the machine. One
    process at a time owns it, by a lock of the operating system that ends with the process, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    @property
    def epoch(self) -> int:
        """The last epoch whose state is complete; 0 when there is none."""
        return max((int(path.name.removeprefix(_COMPLETE)) for path in self._complete()), default=0)

    def save(self, accelerator: "Accelerator", epoch: int) -> None:
        """Keep the state after ``epoch`` and forget earlier ones; all ranks must call it."""
        partial = self.folder / _PARTIAL
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            self.prepare()
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            earlier = self._complete()
            _force_to_disk(partial)
            partial.rename(self.folder / f"{_COMPLETE}{epoch}")
            for path in earlier:
                shutil.rmtree(path)
        accelerator.wait_for_everyone()

    def load(self, accelerator: "Accelerator") -> None:
        """Restore the last complete state into everything that ``accelerator`` prepared or registered."""
        accelerator.load_state(str(self.folder / f"{_COMPLETE}{self.epoch}"))

    def acquire(self) -> None:
        """Own the folder until ``release``.

        Raises:
            IntegrityError: If another process owns it.
            UsageError: If it cannot be made or locked.
        """
        path = self.folder / _LOCK
        while self._lock is None:
            self.prepare()
            try:
                lock = self._locked(path)
            except FileNotFoundError:
                continue  # whoever owned it took the folder away
            if _is_at(path, lock):
                os.ftruncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {os.uname().nodename}".encode())
                self._lock = lock
            else:  # likewise
                _close(lock)

    def release(self) -> None:
        """Own the folder no longer; one that holds nothing is taken away."""
        if self._lock is None:
            return
        (self.folder / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds a state
            self.folder.rmdir()
        _close(self._lock)
        self._lock = None

    def prepare(self) -> None:
        """Make the folder of the state.

        Raises:
            UsageError: If it cannot be made.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise UsageError(
                f"The folder of unfinished generations, {self.folder.parent}, must be writable, but is not"
                f" ({error.strerror}); set LINEAGE_HOME to one that is."
            ) from error

    def note(self, name: str, text: str) -> None:
        """Keep a line beside the state, for whoever resumes."""
        self.prepare()
        (self.folder / name).write_text(text)

    def noted(self, name: str) -> str | None:
        """What ``note`` kept, or None."""
        path = self.folder / name
        return path.read_text() if path.is_file() else None

    def discard(self) -> None:
        """Forget the generation's state, unless another process owns it."""
        if not self.folder.is_dir():
            return
        owned = self._lock is not None
        try:
            self.acquire()
        except (IntegrityError, UsageError):
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink()
        if not owned:
            self.release()

    def _locked(self, path: Path) -> int:
        """An open descriptor of the file, with the lock."""
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        _locks.add(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 200, 0).decode() or "another process"
            _close(lock)
            raise IntegrityError(
                f"One process at a time may grow the generation in {self.folder}, but {owner} is growing it;"
                " wait for it, or stop it."
            ) from None
        except OSError as error:
            _close(lock)
            raise UsageError(
                f"The folder of unfinished generations, {self.folder.parent}, must be on a file system that"
                f" locks files, but is not ({error.strerror}); set LINEAGE_HOME to one that is."
            ) from error
        return lock

    def _complete(self) -> list[Path]:
        return list(self.folder.glob(f"{_COMPLETE}*"))


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file still stands at ``path``."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _close(lock: int) -> None:
    _locks.discard(lock)
    os.close(lock)


def _force_to_disk(folder: Path) -> None:
    """Flush a folder and its files from the page cache, so that a power cut cannot tear them."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
