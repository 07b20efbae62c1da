"""What the runs of a family tell: what is being trained now, and what a version was grown with; no torch."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import mlflow
from mlflow.entities import Run, RunStatus
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from lineage.errors import NotFoundError
from lineage.recipe import present_name
from lineage.registry.family.family import TAG
from lineage.registry.store.connection import connect, find_experiment, translated_errors

_SETTLED = ("FINISHED", "KILLED")


@dataclass(frozen=True)
class GrowingRun:
    """A generation that is being trained, as its run tells.

    Attributes:
        run_id: MLflow's.
        teacher_run_id: Of the run it is nested under; "" for a patriarch.
        generation: Index from 0.
        seed: Of the succession.
        epoch: The last one that is complete; 0 before the first.
        epochs: How many there will be.
        heard: When the run last said something, milliseconds since the epoch. A process that was killed
            leaves its run open, and is not heard of any more.
    """

    run_id: str
    teacher_run_id: str
    generation: int
    seed: int
    epoch: int
    epochs: int
    heard: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return asdict(self)


@translated_errors()
def read_growing(name: str) -> tuple[GrowingRun, ...]:
    """What is being trained in the family ``name`` now, oldest first.

    Raises:
        RegistryError: If the store does not answer.
    """
    running = RunStatus.to_string(RunStatus.RUNNING)
    runs = [run for run in unregistered_runs(name) if run.info.status == running]
    return tuple(map(_growing, runs))


def unregistered_runs(name: str) -> Iterator[Run]:
    """Runs of the family's experiment that are RUNNING or FAILED and gave no version.

    A killed run says itself that it was interrupted.
    """
    for run in search_runs(name, f"attributes.status != 'FINISHED' AND tags.`{TAG}generation` != ''"):
        tags = run.data.tags
        if run.info.status not in _SETTLED and TAG + "key" in tags and TAG + "version" not in tags:
            yield run


def search_runs(name: str, condition: str) -> list[Run]:
    """Runs of a family's experiment that meet a filter of MLflow's, oldest first; [] where there is none."""
    experiment = find_experiment(name)
    if not experiment:
        return []
    found: list[Run] = mlflow.search_runs(
        [experiment], condition, order_by=["attributes.start_time ASC"], output_format="list"
    )
    return found


@dataclass(frozen=True)
class Settings:
    """What a version was grown with, as its run shows it.

    Attributes:
        experiment: Id of the run's; "" where the run is gone, or there never was one.
        values: By dotted key of the recipe, as it is named now.
    """

    experiment: str
    values: dict[str, str]


@translated_errors()
def read_settings(run_id: str) -> Settings:
    """The settings in a generation's run.

    Raises:
        RegistryError: If the store does not answer.
    """
    try:
        with translated_errors():
            run = connect().get_run(run_id) if run_id else None
    except NotFoundError:
        run = None
    if run is None:
        return Settings("", {})
    return Settings(
        str(run.info.experiment_id), {present_name(key): value for key, value in run.data.params.items()}
    )


def _growing(run: Run) -> GrowingRun:
    tags = run.data.tags

    def number(name: str) -> int:
        text = tags.get(TAG + name, "")
        return int(text) if text.isdecimal() else 0

    return GrowingRun(
        run_id=str(run.info.run_id),
        teacher_run_id=tags.get(MLFLOW_PARENT_RUN_ID, ""),
        generation=number("generation"),
        seed=number("seed"),
        epoch=number("epoch"),
        epochs=number("epochs"),
        heard=number("epoch_ended") or int(run.info.start_time),
    )
