"""Standard output and error that never fail: a reader may have left, a disk may be full."""

import errno
import io
import os
import sys
from typing import Any

from lineage.errors import UsageError


class _Stream(io.FileIO):
    """File descriptor that discards what is written to it once a write has failed.

    A command has registered its versions before it prints them, and a generation trains on though nobody
    reads of its progress.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write ``data``, or drop it if something was dropped before."""
        if self.error is None:
            try:
                return super().write(data)
            except BlockingIOError:
                raise
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def protect_output() -> None:
    """Have standard output and error discard unread text, and replace characters they cannot encode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell; else the next file that is opened would be written
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - open until the process ends
        elif type(stream) is io.TextIOWrapper:  # not a test's stream
            stream.flush()
            raw = _Stream(stream.fileno(), "w", closefd=False)
            is_buffered = isinstance(stream.buffer, io.BufferedWriter)  # not so under PYTHONUNBUFFERED
            wrapper = io.TextIOWrapper(
                io.BufferedWriter(raw) if is_buffered else raw,
                stream.encoding,
                "replace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, wrapper)


def require_output() -> None:
    """Check that standard output took all that was printed; a reader that left, as ``head`` does, is fine.

    Raises:
        UsageError: If something was lost.
    """
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    stream = getattr(buffer, "raw", buffer)
    error = stream.error if isinstance(stream, _Stream) else None
    if error is not None and error.errno != errno.EPIPE:
        raise UsageError(
            f"Standard output must take the result, but did not ({error.strerror}); the command itself is"
            " complete: print its result elsewhere."
        )
