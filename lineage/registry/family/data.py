"""Data that a family's generations were grown on, by the dataset inputs of their runs; imports no torch."""

from contextlib import suppress

from mlflow.entities import Run

from lineage.errors import NotFoundError
from lineage.recipe import FIRST_IMAGE_SIZE
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_family
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.runs import NamedData, dataset_input
from lineage.registry.store.search import newest_version, search_runs

_IMAGE_SIZE = "data.image_size"  # parameter of a run
_ABSENT = "None"  # its value where no size is given


@translated_errors()
def find_other_data(name: str, data: NamedData, image_size: int) -> tuple[Version, str] | None:
    """Return the newest generation on other contents of the data set, if none is on these.

    Generations on data sets of another name, or on images of another size, were meant to differ.

    Args:
        name: Name of the registered model; it need not exist.
        data: Data set with the digest of its contents.
        image_size: Size of the images, as the recipe's ``recorded_image_size`` gives it.

    Returns:
        The version, and the beginning of the digest of its data.

    Raises:
        RegistryError: If the store does not answer.
    """
    wanted = dataset_input(data.name, data.digest, "training").dataset
    newest = newest_version(name)
    if newest is None or _digest(_find_run(newest.run_id), data.name) == wanted.digest:
        return None
    runs = {run.info.run_id: run for run in search_runs(name, f"tags.`{TAG}version` != ''")}
    sizes = {str(image_size), _ABSENT} if image_size == FIRST_IMAGE_SIZE else {str(image_size)}
    found: tuple[Version, str] | None = None
    for version in read_family(name):
        run = runs.get(version.run_id)
        digest = _digest(run, data.name)
        if version.kind != "generation" or run is None or digest is None:
            continue
        if digest == wanted.digest:
            return None
        if run.data.params.get(_IMAGE_SIZE, _ABSENT) in sizes:
            found = version, digest
    return found


def _find_run(run_id: str | None) -> Run | None:
    with suppress(NotFoundError), translated_errors():
        return connect().get_run(run_id) if run_id else None
    return None


def _digest(run: Run | None, name: str) -> str | None:
    """Return the digest of a run's data set if it has that name."""
    inputs = [] if run is None or run.inputs is None else run.inputs.dataset_inputs
    return next((str(given.dataset.digest) for given in inputs if given.dataset.name == name), None)
