from dataclasses import replace

from rich.console import Console
from rich.table import Table

from lineage.display.audit_table import audit_table
from lineage.registry.family.family import Version
from lineage.registry.store.audits import Audit

PATRIARCH = Version(name="c100", version=1)
STUDENT = Version(name="c100", version=2, generation=1, teacher="c100/1")
RATES = {"auc": 0.75, "tpr_at_fpr_0.01": 0.25, "tpr_at_fpr_0.001": 0.0625}
LIMITS = {f"{side}_{name}": value for side, value in (("low", 0.125), ("high", 0.875)) for name in RATES}
ALONE = Audit(PATRIARCH, PATRIARCH, 400, 400, 0, {"threshold": RATES})


def printed(table: Table) -> list[str]:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_table_without_shadows_says_that_it_is_a_lower_bound() -> None:
    assert printed(audit_table([ALONE, replace(ALONE, version=STUDENT)])) == [
        "training images of models:/c100/1",
        "                                 TPR at     TPR at",
        "generation  attack         AUC  1 % FPR  0.1 % FPR  version",
        "─" * 59,
        "         0  threshold  75.00 %  25.00 %     6.25 %       v1",
        "         1  threshold  75.00 %  25.00 %     6.25 %       v2",
        "400 members trained it, 400 others no generation",
        "threshold is a lower bound; --shadows adds LiRA",
        "too few images for 0.1 %: no false positive allowed there",
    ]


def test_table_with_shadows_has_their_limits() -> None:
    rates = {"threshold": RATES | LIMITS, "lira": RATES | LIMITS}
    many = Audit(PATRIARCH, PATRIARCH, 4000, 4000, 8, rates)
    lines = printed(audit_table([many, replace(many, version=replace(STUDENT, name="other"))]))
    assert lines[4].split(maxsplit=2) == [
        "0",
        "threshold",
        "75.00 % [12.5, 87.5]  25.00 % [12.5, 87.5]  6.25 % [12.5, 87.5]   c100/1",
    ]
    assert [line.split()[1] for line in lines[4:8]] == ["threshold", "LiRA"] * 2
    assert lines[-1] == "[…]: 95 % of 8 shadows, each attacked in turn"
