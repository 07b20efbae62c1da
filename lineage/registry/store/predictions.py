"""What a version predicted on its test part, read from the file beside its weights. Imports no torch."""

from collections.abc import Mapping

from lineage.errors import NotFoundError
from lineage.registry.store.predicted import Predictions
from lineage.registry.store.predictions_file import PREDICTIONS_FILE, parse_predictions


def predictions_in(files: Mapping[str, bytes], uri: str) -> Predictions:
    """Return what a version predicted, from its files by name.

    Raises:
        NotFoundError: If there are no predictions among them.
        IntegrityError: If they are damaged.
    """
    if PREDICTIONS_FILE not in files:
        raise NotFoundError(
            f"{uri} must have {PREDICTIONS_FILE} to tell what it predicted, but has none: it was"
            " registered before there was such a file, or without being measured; grow or adopt it anew in"
            " another store."
        )
    return parse_predictions(files[PREDICTIONS_FILE], f"{PREDICTIONS_FILE} of {uri}")
