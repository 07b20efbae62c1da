"""Training speed against others, and the teacher's share of it."""

from functools import partial
from pathlib import Path

from common import Contestant, Row, hold_contest, ratios, row

BATCH = 128


def training(data: Path, rounds: int) -> list[Row]:
    """A ResNet-20 taught by a ResNet-20 on CIFAR-100, against torchdistill and a loop by hand."""
    names = {
        "torchdistill, float32": ("torchdistill", "fp32"),
        "torchdistill, bfloat16": ("torchdistill", "bf16"),
        "bare loop, bfloat16": ("bare", "bf16"),
        "lineage, float32": ("live", "fp32"),
        "lineage, bfloat16": ("live", "bf16"),
        "lineage, bfloat16, stored soft targets": ("stored", "bf16"),
        "lineage, bfloat16, no teacher": ("plain", "bf16"),
    }
    seconds = _contest(names, data, rounds, steps=10)
    rows = [
        row(f"{name}, images/s", [10 * BATCH / one for one in taken], digits=0)
        for name, taken in seconds.items()
    ]
    others, live = seconds["torchdistill, float32"], seconds["lineage, bfloat16"]
    stored, plain = (
        seconds["lineage, bfloat16, stored soft targets"],
        seconds["lineage, bfloat16, no teacher"],
    )
    bare = seconds["bare loop, bfloat16"]
    return [
        *rows,
        row("live teacher: speed / torchdistill's", ratios(others, live), " ×", at_least=2.5),
        row("stored soft targets: speed / torchdistill's", ratios(others, stored), " ×", at_least=3.0),
        row("live teacher: speed / bare loop's", ratios(bare, live), " ×", 3, at_least=0.97),
        row("stored soft targets: time / no teacher", ratios(stored, plain), " ×", 3, at_most=1.03),
        row(
            "float32, live teacher: speed / torchdistill's",
            ratios(others, seconds["lineage, float32"]),
            " ×",
        ),
        row(
            "bfloat16 both, live teacher: speed / torchdistill's",
            ratios(seconds["torchdistill, bfloat16"], live),
            " ×",
        ),
    ]


def teacher(data: Path, rounds: int) -> list[Row]:
    """The forward pass of a folded teacher against that of a student that learns."""
    rows = []
    for precision, title, bar in (("bf16", "bfloat16", 0.75), ("fp32", "float32", None)):
        names = {who: (who, precision) for who in ("teacher", "student")}
        seconds = _contest(names, data, rounds, steps=20)
        found = ratios(seconds["teacher"], seconds["student"])
        rows.append(row(f"teacher's forward / student's, {title}", found, " ×", at_most=bar))
    return rows


def _contest(
    names: dict[str, tuple[str, str]], data: Path, rounds: int, steps: int
) -> dict[str, list[float]]:
    contestants = {
        title: partial(Contestant, "contestants.py", [kind, str(data), precision])
        for title, (kind, precision) in names.items()
    }
    return hold_contest(contestants, rounds, steps, warm_up=10)
