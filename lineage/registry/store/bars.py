"""MLflow's progress bars, which it draws for each download and upload, of a few bytes as well."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"  # read for each bar


@contextmanager
def without_bars() -> Iterator[None]:
    """Draw none of them while a ``with`` block lasts, unless the user has set MLflow's variable."""
    if _VARIABLE in os.environ:
        yield
        return
    os.environ[_VARIABLE] = "false"
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)
