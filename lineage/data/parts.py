"""Choice of the part of a data set that is held for test."""

import logging
from collections.abc import Callable, Sequence

from lineage.errors import IntegrityError, NotFoundError, suggestion
from lineage.processes import is_main_process

TEST_PARTS = ("test", "validation", "valid", "val")
"""Names of a part that can be held for test, in the order in which they are tried."""


def choose_test_part(
    name: str, available: Sequence[str], wanted: str | None, is_labelled: Callable[[str], bool]
) -> str:
    """Return the wanted part, or the first one with labels; a part that is passed over is logged.

    Args:
        name: Name of the data set in error messages.
        available: Parts beside the training part, in the order in which they are tried; at least one.
        wanted: Part that ``data.test`` names, or None.
        is_labelled: Tells whether a part has labels.

    Raises:
        NotFoundError: If there is no part of the wanted name.
        IntegrityError: If the wanted part, or every part, has no labels.
    """
    listed = ", ".join(available)
    if wanted is not None and wanted not in available:
        raise NotFoundError(
            f"data.test must name a part of '{name}' beside its training part ({listed}), but got "
            f"'{wanted}'; correct it or leave it out.{suggestion(wanted, available)}"
        )
    tried = available if wanted is None else [wanted]
    chosen = next((part for part in tried if is_labelled(part)), None)
    if chosen is None:
        raise IntegrityError(
            f"The test part of '{name}' must have labels, but {' and '.join(tried)} "
            f"{'has' if len(tried) == 1 else 'have'} none; set data.test to a labelled part"
            f"{f' (there are {listed})' if len(available) > len(tried) else ', or add one'}."
        )
    if chosen != tried[0] and is_main_process():
        logging.getLogger(__name__).warning(
            "Part '%s' of data set '%s' has no labels: '%s' is held for test.", tried[0], name, chosen
        )
    return chosen
