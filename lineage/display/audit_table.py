"""Table of an audit: how well each attack tells members from others, by generation."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from lineage.display.table_style import add_row, new_table, numeric
from lineage.formats import quantity
from lineage.registry.store.audits import Audit

_RATES = {
    "auc": "AUC",
    "tpr_at_fpr_0.01": "TPR at\n1 % FPR",
    "tpr_at_fpr_0.001": "TPR at\n0.1 % FPR",
}
_TITLES = {"threshold": "threshold", "lira": "LiRA"}
_FEWEST_RESOLVED = 1000


def audit_table(results: Sequence[Audit]) -> Table:
    """Return the table that ``lineage audit`` prints: a row for each generation and attack.

    Args:
        results: Results of one line, in the order to show; at least one.
    """
    first = results[0]
    of_one_model = len({result.version.name for result in results}) == 1
    table = new_table(
        *numeric("generation"),
        "attack",
        *numeric(*_RATES.values(), "version"),
        title=f"training images of {first.patriarch.uri}",
        caption=_caption(first),
    )
    for result in results:
        version = result.version
        for attack, rates in result.rates.items():
            add_row(
                table,
                str(version.generation),
                _TITLES.get(attack, attack),
                *(_rate(rates, name) for name in _RATES),
                f"v{version.version}" if of_one_model else version.id,
            )
    return table


def _caption(result: Audit) -> list[str]:
    lines = [f"{result.num_members} members trained it, {result.num_others} others no generation"]
    if result.num_shadows:
        lines.append(f"[…]: 95 % of {result.num_shadows} shadows, each attacked in turn")
    else:
        lines.append("threshold is a lower bound; --shadows adds LiRA")
    if result.num_others < _FEWEST_RESOLVED:
        lines.append("too few images for 0.1 %: no false positive allowed there")
    return lines


def _rate(rates: Mapping[str, float], name: str) -> str:
    """Return a rate in percent, with its limits where there are shadows."""
    text = quantity(name, rates[name])
    if f"low_{name}" not in rates:
        return text
    low, high = (f"{100 * rates[f'{side}_{name}']:.1f}" for side in ("low", "high"))
    return f"{text} [{low}, {high}]"
