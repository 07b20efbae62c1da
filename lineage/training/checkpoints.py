"""Local checkpoint of the one generation that is being trained, from which it resumes."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lineage.errors import IntegrityError, UsageError
from lineage.formats import file_digest, first_line, is_disk_full

if TYPE_CHECKING:  # importing it takes seconds, and not all that reads a checkpoint trains
    from accelerate import Accelerator

_COMPLETE = "epoch-"
_PARTIAL = "partial"
_LOCK = "lock"
_DIGESTS = "digests.json"
_STATES_KEPT = 2  # the newest, and the one before in case the newest is damaged
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SECONDS_TO_RETRY = 0.2  # a lock file that its owner removes just now is made anew


def state_home() -> Path:
    """Return the folder of all unfinished generations: ``$LINEAGE_HOME``, or ``.lineage`` here."""
    return Path(os.environ.get("LINEAGE_HOME", ".lineage"))


class History:
    """Metrics and time of a generation so far; saved and restored with its weights.

    Attributes:
        epochs: One record of metrics an epoch.
        seconds: Time spent on training and evaluation, over all sessions.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the history as plain values."""
        return {"epochs": self.epochs, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.epochs = list(state["epochs"])
        self.seconds = float(state["seconds"])


class Checkpoint:
    """State of one generation on the local disk, complete or absent.

    A state is written to a partial folder, flushed to the disk and then renamed: a process that is killed at
    any moment leaves the state of either the last epoch or this one. The digests of its files are kept with
    it, and so is the state before: what a disk has damaged is found and never trained on. Rank 0 alone has
    one, and tells the other ranks what to continue from. Accelerate writes weights as safetensors and random
    states as pickle, so the folder is private (mode 0700) and stays on this machine.

    One process at a time owns the folder, by a lock of the operating system that ends with the process,
    however it ends. Forked processes, such as those that load images, do not inherit the lock.

    Args:
        folder: Folder of this generation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(
            folder / _LOCK, mode=0o600, thread_local=False, fallback_to_soft=False, on_acquired=_write_owner
        )

    @property
    def epoch(self) -> int:
        """Last epoch whose state is complete; 0 if there is none."""
        return max(self._complete(), default=0)

    def save(self, accelerator: "Accelerator", epoch: int) -> None:
        """Keep the state after ``epoch`` and the one before, and delete others; rank 0 alone calls it.

        Raises:
            IntegrityError: If the disk is full; the states before are left as they are.
        """
        partial = self.folder / _PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        self.make_folder()
        with self._room_for(epoch):
            accelerator.save_state(str(partial))
            (partial / _DIGESTS).write_text(json.dumps(_digests(partial)))
            _flush(*partial.rglob("*"), partial)
        partial.rename(self.folder / f"{_COMPLETE}{epoch}")
        _flush(self.folder)
        for _, path in sorted(self._complete().items())[:-_STATES_KEPT]:
            shutil.rmtree(path)

    def drop_damaged(self) -> list[str]:
        """Delete the newest states until one is as it was written.

        Returns:
            One line for each that was deleted, to be told to the user.
        """
        lines = []
        for epoch, path in sorted(self._complete().items(), reverse=True):
            problem = _damage(path)
            if problem is None:
                break
            shutil.rmtree(path)
            lines.append(
                f"the checkpoint after epoch {epoch} is damaged ({problem}) and was deleted; training"
                f" continues {f'after epoch {self.epoch}' if self.epoch else 'from the start'}"
            )
        return lines

    def load(self, accelerator: "Accelerator") -> None:
        """Restore the last complete state into all that ``accelerator`` prepared; rank 0 alone calls it."""
        accelerator.load_state(str(self._complete()[self.epoch]))

    def acquire(self) -> None:
        """Own the folder until ``release``.

        Raises:
            IntegrityError: If another process owns it.
            UsageError: If it cannot be made or locked.
        """
        while not self._lock.is_locked:
            self.make_folder()
            try:
                self._lock.acquire(timeout=_SECONDS_TO_RETRY)
                self.folder.chmod(0o700)  # filelock makes a folder that its last owner removed meanwhile
            except FileNotFoundError:
                continue
            except Timeout:
                raise IntegrityError(
                    f"One process at a time may grow the generation in {self.folder}, but {self._owner()} is"
                    " growing it; wait for it, or stop it."
                ) from None
            except OSError as error:
                raise UsageError(
                    f"The folder of unfinished generations, {self.folder.parent}, must be on a file system"
                    f" that locks files, but is not ({error.strerror}); set LINEAGE_HOME to one that is."
                ) from error

    def release(self) -> None:
        """Give up the folder, and remove it if it holds no state."""
        if not self._lock.is_locked:
            return
        (self.folder / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()
        self._lock.release()

    def write_note(self, name: str, text: str) -> None:
        """Store a text beside the state, such as an id, for when the generation is resumed."""
        self.make_folder()
        new = self.folder / f"{name}.new"
        new.write_text(text)
        _flush(new)
        new.replace(self.folder / name)  # a power cut leaves the former note or this one

    def read_note(self, name: str) -> str | None:
        """Return the word that ``write_note`` kept; None if there is none, or no word is left of it."""
        path = self.folder / name
        text = path.read_text(errors="replace") if path.is_file() else ""
        return text if _WORD.fullmatch(text) else None

    def discard(self) -> None:
        """Delete the state of the generation, unless another process owns it."""
        if not self.folder.is_dir():
            return
        was_owner = self._lock.is_locked
        try:
            self.acquire()
        except (IntegrityError, UsageError):
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink()
        if not was_owner:
            self.release()

    def make_folder(self) -> None:
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

    def _owner(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / _LOCK).read_text() or "another process"
        return "another process"

    @contextlib.contextmanager
    def _room_for(self, epoch: int) -> Iterator[None]:
        """Raise an ``IntegrityError`` if the disk is full, and delete the partial state of ``epoch``."""
        try:
            yield
        except Exception as error:
            if not is_disk_full(error):
                raise
            shutil.rmtree(self.folder / _PARTIAL, ignore_errors=True)
            raise IntegrityError(
                f"The checkpoint after epoch {epoch} must fit on the disk of {self.folder}, which is full;"
                " free some room, or move the folder and set LINEAGE_HOME, and run the same command again: it"
                f" continues after epoch {self.epoch}."
            ) from error

    def _complete(self) -> dict[int, Path]:
        """Return the folders of complete states by epoch."""
        found = {path: path.name.removeprefix(_COMPLETE) for path in self.folder.glob(f"{_COMPLETE}*")}
        return {int(epoch): path for path, epoch in found.items() if epoch.isdecimal()}


def _write_owner(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a state, by path in its folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / _DIGESTS)
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


def _damage(folder: Path) -> str | None:
    """Return in which file a state differs from what was written; None if it does not."""
    try:
        written = json.loads((folder / _DIGESTS).read_bytes())
        found = _digests(folder)
    except (OSError, ValueError) as error:
        return f"{_DIGESTS}: {first_line(error)}"
    if not isinstance(written, dict) or not written:
        return f"{_DIGESTS} holds no digests"
    for name in sorted(written.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if found[name] != written.get(name):
            return f"{name} is not what was written"
    return None


def _flush(*paths: Path) -> None:
    """Flush files and folders from the page cache to the disk, so that a power cut cannot tear them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
