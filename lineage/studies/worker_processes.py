"""Jobs of several worker processes of one study on this machine, and how they ended."""

import json
import signal
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
from lineage.growing.worker_processes import run_workers

COMMAND = "study-worker"

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
        teacher: URI of the version that teaches all trials; "" where each has a patriarch.
    """

    recipe: str
    storage: str
    worker: int
    teacher: str = ""

    def to_json(self) -> str:
        """Return the job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a job that ``to_json`` wrote."""
        return cls(**json.loads(text))


def run_worker_processes(jobs: Sequence[Job], grace: int, notify: Callable[[str], None]) -> list[int]:
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

    def ended(index: int, code: int) -> None:
        if code < 0:
            notify(
                f"worker {jobs[index].worker} died of {signal.Signals(-code).name}; its trial is tried again"
                f" after {grace} s of silence"
            )

    return run_workers(COMMAND, [job.to_json() for job in jobs], len(jobs), ended)


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
