"""``lineage.frame``: a family as a pandas table."""

from typing import TYPE_CHECKING

from lineage.registry.family.lookup import read_family
from lineage.registry.store.progress import read_settings

if TYPE_CHECKING:
    import pandas as pd

_FIELDS = ("version", "kind", "generation", "seed", "teacher", "root", "objective", "aliases", "key")


def frame(name: str, *, settings: bool = False) -> "pd.DataFrame":
    """Return a family as a table with one row for each version.

    Args:
        name: Name of the registered model.
        settings: Whether to add the settings that each version was grown with, which takes a request a
            version.

    Returns:
        A table indexed by URI, with the columns ``version``, ``kind``, ``generation``, ``seed``, ``teacher``,
        ``root``, ``objective``, ``aliases``, ``key`` and ``created`` (UTC), one column of floats for each
        metric, missing values as NaN, and with ``settings`` one for each setting, by its dotted key.

    Raises:
        NotFoundError: If the store holds no such model.
        IntegrityError: If tags of a version were altered.
        RegistryError: If the store does not answer.

    Examples:
        >>> table = lineage.frame("digits")
        >>> table.groupby("generation").test_accuracy.agg(["mean", "std", "count"])
    """
    import pandas as pd

    family = read_family(name)
    rows = [{field: getattr(version, field) for field in _FIELDS} for version in family]
    table = pd.DataFrame(rows, columns=list(_FIELDS), index=[version.uri for version in family])
    table["created"] = pd.to_datetime([version.created for version in family], unit="ms", utc=True)
    metrics = sorted({metric for version in family for metric in version.metrics})
    values = [[version.metrics.get(metric) for metric in metrics] for version in family]
    parts = [table, pd.DataFrame(values, columns=metrics, index=table.index, dtype=float)]
    if settings:
        found = [read_settings(version.run_id).values for version in family]
        parts.append(pd.DataFrame(found, index=table.index).convert_dtypes())
    return pd.concat(parts, axis=1)
