"""Progress of generations in training and settings of trained ones, read from their runs; no torch."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from lineage.errors import NotFoundError
from lineage.recipe import present_name
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.search import search_runs


@dataclass(frozen=True)
class GrowingRun:
    """The run of a generation that is being trained.

    Attributes:
        run_id: MLflow's id of the run.
        teacher_run_id: Id of the run it is nested under; "" for a patriarch.
        generation: Index from 0.
        seed: Seed of the succession.
        epoch: Last completed epoch; 0 before the first.
        epochs: Number of epochs to train.
        last_update: Time of the last logged epoch, or of the start, in milliseconds since the epoch. A killed
            process leaves its run open, so an old time is the only sign of its death.
    """

    run_id: str
    teacher_run_id: str
    generation: int
    seed: int
    epoch: int
    epochs: int
    last_update: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return asdict(self)


@translated_errors()
def read_growing(name: str) -> tuple[GrowingRun, ...]:
    """Return the generations of the family ``name`` that are being trained now, oldest first.

    Raises:
        RegistryError: If the store does not answer.
    """
    return tuple(_growing_run(run) for run in unregistered_runs(name) if run.info.status == "RUNNING")


def unregistered_runs(name: str) -> Iterator[Run]:
    """Yield runs of the family's experiment that are RUNNING or FAILED and gave no version.

    KILLED runs are left out: they were interrupted or given up on purpose.
    """
    for run in search_runs(name, f"attributes.status != 'FINISHED' AND tags.`{TAG}generation` != ''"):
        tags = run.data.tags
        if (
            run.info.status not in ("FINISHED", "KILLED")
            and TAG + "key" in tags
            and TAG + "version" not in tags
        ):
            yield run


@dataclass(frozen=True)
class Settings:
    """The settings that a version was grown with, from the parameters of its run.

    Attributes:
        experiment: Id of the run's experiment; "" if the run is gone, or there never was one.
        values: Values by dotted key of the recipe, under the keys' present names.
    """

    experiment: str
    values: dict[str, str]


@translated_errors()
def read_settings(run_id: str) -> Settings:
    """Return the settings in a generation's run.

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
    values = {present_name(key): value for key, value in run.data.params.items()}
    return Settings(str(run.info.experiment_id), values)


def _growing_run(run: Run) -> GrowingRun:
    tags = run.data.tags

    def number(name: str) -> int:
        try:
            return int(tags.get(TAG + name, ""))
        except ValueError:  # absent, or altered: how far a run is shows again with its next epoch
            return 0

    return GrowingRun(
        run_id=str(run.info.run_id),
        teacher_run_id=tags.get(MLFLOW_PARENT_RUN_ID, ""),
        generation=number("generation"),
        seed=number("seed"),
        epoch=number("epoch"),
        epochs=number("epochs"),
        last_update=number("epoch_ended") or int(run.info.start_time),
    )
