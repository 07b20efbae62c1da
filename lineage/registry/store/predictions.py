"""What a version predicted on its test part, read from the file beside its weights. Imports no torch."""

import tempfile
from contextlib import suppress
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from lineage.errors import NotFoundError
from lineage.registry.family.family import Version
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.predictions_file import PREDICTIONS_FILE, Predictions, parse_predictions


@translated_errors()
def read_predictions(version: Version) -> Predictions:
    """Read what ``version`` predicted on its test part.

    Raises:
        NotFoundError: If the store holds no predictions of it.
        IntegrityError: If they are damaged.
        RegistryError: If the store does not answer.
    """
    text = fetch_predictions(version.model_id)
    if text is None:
        raise NotFoundError(
            f"{version.uri} must have {PREDICTIONS_FILE} to tell what it predicted, but has none: it was"
            " registered before there was such a file, or without being measured; grow or adopt it anew in"
            " another store."
        )
    return parse_predictions(text)


@translated_errors()
def fetch_predictions(model_id: str) -> bytes | None:
    """Return the contents of the file of a logged model; None if it has none.

    Raises:
        RegistryError: If the store does not answer.
    """
    connect()
    with suppress(NotFoundError), translated_errors(), tempfile.TemporaryDirectory() as place:
        repository = get_artifact_repository(f"models:/{model_id}")
        if PREDICTIONS_FILE in {file.path for file in repository.list_artifacts("")}:
            return Path(repository.download_artifacts(PREDICTIONS_FILE, place)).read_bytes()
    return None
