"""Rebuild the tables and figures of the evidence from its kept texts: ``python tests/evidence/account.py``.

It fills the places ``<!-- evidence: NAME -->`` … ``<!-- end -->`` of the pages that have any, and draws the
figures. Needs neither a store nor images; with ``--data`` the figure of test images has pictures.
"""

import argparse
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from families import ARMS, KEPT, LONGER, ROOT, SEEDS, TEMPERATURE
from losses import FILE, LESSONS

import lineage
from lineage.display.comparison import Comparison, Difference, Spread
from lineage.evaluation.compare import compare_lines
from lineage.evaluation.report_values import mean_interval
from lineage.formats import MISSING, change, counted, quantity
from lineage.recipe import TermName
from lineage.registry.family.family import Version
from lineage.registry.packing.record import FamilyRecord, read_record

PAGES = (ROOT / "docs" / "evidence.md", ROOT / "docs" / "how-to" / "losses.md", ROOT / "README.md")
FIGURES = ROOT / "docs" / "images" / "evidence"
_DRAWN = (
    "accuracy.svg",
    "differences.svg",
    "explanation.svg",
    "reliability.svg",
    "teachers.svg",
    "images.png",
)
_PLACE = re.compile(
    r"(?<=<!-- evidence: )(?P<name>[a-z-]+)(?P<head> -->\n)(?P<body>.*?)(?=<!-- end -->)", re.DOTALL
)
_ACCURACY = "test_accuracy"
_AGREEMENT = "test_agreement"
_TRAITS = {
    "test_top_probability": "highest probability",
    "test_top_score_difference": "top score difference",
    "test_secondary_mass": "secondary mass",
    "test_superclass_share": "inside the superclass",
    "test_calibration_error": "calibration error",
}
_RATES = {"auc": "AUC", "tpr_at_fpr_0.01": "TPR at 1 % FPR", "tpr_at_fpr_0.001": "TPR at 0.1 % FPR"}

Lines = Mapping[str, Sequence[Version]]


@dataclass(frozen=True)
class Evidence:
    """The families that are kept as texts.

    Attributes:
        records: Families by their name without ``evidence-``, in the order of the arms.
        files: Their texts, in the same order.
        trials: Trials of the study, as ``lineage study --json`` prints them; none before it was run.
        lessons: What ``losses.py`` keeps of each small student.
    """

    records: Mapping[str, FamilyRecord]
    files: Sequence[Path]
    trials: Sequence[Mapping[str, Any]] = ()
    lessons: Sequence[Mapping[str, Any]] = ()

    def line(self, arm: str, generation: int | None = None) -> list[Version]:
        """Return the versions of an arm, all or those of one generation."""
        family = self.records[arm].family if arm in self.records else ()
        return [version for version in family if generation in (None, version.generation)]

    def lines(self, arms: Iterable[str]) -> Lines:
        """Return the versions of each arm that has any."""
        return {arm: versions for arm in arms if (versions := self.line(arm))}

    @property
    def seeds(self) -> list[int]:
        """Seeds of which every arm has a patriarch and two students."""
        return [
            seed
            for seed in SEEDS
            if all(
                {0, 1, 2} <= {version.generation for version in self.line(arm) if version.seed == seed}
                for arm in ARMS
            )
        ]

    @property
    def digest(self) -> str:
        """First digits of the digest of all versions' keys, which says what figures were drawn from."""
        keys = sorted(version.key for record in self.records.values() for version in record.family)
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:12]


def read_evidence(kept: Path = KEPT) -> Evidence:
    """Read the texts of a folder."""
    names = [*ARMS, *(f"{arm}-t{TEMPERATURE}" for arm in LONGER)]
    files = {name: kept / f"evidence-{name}.json" for name in names}
    found = {name: file for name, file in files.items() if file.is_file()}
    records = {name: read_record(file) for name, file in found.items()}
    study = kept / "study.json"
    trials = json.loads(study.read_text(encoding="utf-8"))["trials"] if study.is_file() else []
    lessons = kept / FILE
    rows = json.loads(lessons.read_text(encoding="utf-8")) if lessons.is_file() else []
    return Evidence(records, list(found.values()), trials, rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_interval(spread: Spread, write: Callable[[float], str]) -> str:
    """Return a mean with its 95 % interval over seeds, where there are two seeds or more."""
    interval = mean_interval(spread)
    mean = write(spread.mean)
    return mean if interval is None else f"{mean} [{write(interval[0])}, {write(interval[1])}]"


def difference_cells(difference: Difference | None) -> list[str]:
    """Return the pairs, mean and interval of a paired difference in accuracy."""
    write = partial(change, _ACCURACY)
    if difference is None or difference.mean is None:
        return ["0", MISSING, MISSING]
    interval = difference.interval
    bounds = MISSING if interval is None else f"{write(interval[0])} to {write(interval[1])}"
    return [str(difference.pairs), write(difference.mean), bounds]


def means_table(evidence: Evidence, metric: str) -> str:
    """Return means over seeds by arm and generation."""
    lines = evidence.lines(ARMS)
    found = {(entry.line, entry.generation): entry.spread for entry in compare_lines(lines, metric).entries}
    generations = sorted({generation for _, generation in found})
    rows = []
    for arm in lines:
        spreads = [found.get((arm, generation)) for generation in generations]
        cells = [MISSING if one is None else with_interval(one, partial(quantity, metric)) for one in spreads]
        seeds = max(one.n for one in spreads if one is not None)
        rows.append([arm, str(seeds), *cells])
    return table(["arm", "seeds", *(f"M{_raised(generation)}" for generation in generations)], rows)


def contrasts_table(evidence: Evidence) -> str:
    """Return each arm's differences from strict by generation, the primary contrast in bold."""
    rows = []
    for entry in compare_lines(evidence.lines(ARMS), _ACCURACY).entries:
        if entry.line != ARMS[0]:
            cells = [
                f"{entry.line} − strict, M{_raised(entry.generation)}",
                *difference_cells(entry.difference),
            ]
            is_primary = entry.line == "tolerant" and entry.generation in (1, 2)
            rows.append([f"**{cell}**" for cell in cells] if is_primary else cells)
    return table(["contrast", "pairs", "points", "95 % interval"], rows)


def students_table(evidence: Evidence) -> str:
    """Return how much students of each arm gain over its patriarch, and students at another temperature."""
    rows = []
    for arm in evidence.lines(ARMS):
        for generation in (1, 2, 3):
            cells = _paired(evidence.line(arm, 0), evidence.line(arm, generation))
            if cells is not None:
                rows.append([f"{arm}, M{_raised(generation)} − M⁰", *cells])
    for arm in LONGER:
        for generation in (1, 2):
            warm = evidence.line(f"{arm}-t{TEMPERATURE}", generation)
            cells = _paired(evidence.line(arm, generation), warm)
            if cells is not None:
                rows.append([f"{arm}, M{_raised(generation)}: T {TEMPERATURE} − T 1", *cells])
    for generation in (1, 2):
        warm = [evidence.line(f"{arm}-t{TEMPERATURE}", generation) for arm in LONGER]
        cells = _paired(*warm)
        if cells is not None:
            rows.append([f"tolerant − strict at T {TEMPERATURE}, M{_raised(generation)}", *cells])
    return table(["contrast", "pairs", "points", "95 % interval"], rows)


def traits_table(evidence: Evidence) -> str:
    """Return means over seeds of what may explain the accuracies."""
    lines = evidence.lines(ARMS)
    found: dict[tuple[int, str], dict[str, str]] = {}
    for metric in _TRAITS:
        for entry in compare_lines(lines, metric).entries:
            cell = quantity(metric, entry.spread.mean)
            found.setdefault((entry.generation, entry.line), {})[metric] = cell
    rows = [
        [f"{arm}, M{_raised(generation)}", *(found[generation, arm][metric] for metric in _TRAITS)]
        for arm in lines
        for generation in sorted(generation for generation, line in found if line == arm)
    ]
    return table(["arm", *_TRAITS.values()], rows)


def seeds_table(evidence: Evidence) -> str:
    """Return the accuracy of every version."""
    rows = []
    for name in evidence.records:
        versions = {(version.seed, version.generation): version for version in evidence.line(name)}
        for generation in sorted({generation for _, generation in versions}):
            cells = [
                quantity(_ACCURACY, versions[seed, generation].metrics[_ACCURACY])
                if (seed, generation) in versions
                else MISSING
                for seed in SEEDS
            ]
            rows.append([f"{name}, M{_raised(generation)}", *cells])
    return table(["family", *(f"seed {seed}" for seed in SEEDS)], rows)


def study_table(evidence: Evidence) -> str:
    """Return the validation accuracy of the student of each trial, by strictness and temperature."""
    if not evidence.trials:
        return "Not run yet.\n"
    found = {
        (trial["values"]["patriarch.strictness"], trial["values"]["student.temperature"]): trial[
            "objectives"
        ]["accuracy"]
        for trial in evidence.trials
    }
    temperatures = sorted({temperature for _, temperature in found})
    rows = [
        [f"η {strictness:g}", *(quantity(_ACCURACY, found.get((strictness, one))) for one in temperatures)]
        for strictness in sorted({strictness for strictness, _ in found})
    ]
    return table(["strictness", *(f"T {temperature:g}" for temperature in temperatures)], rows)


def audit_table(evidence: Evidence) -> str:
    """Return what attacks on the audited versions found, with the limits over shadows."""
    rows = []
    for arm in LONGER:
        for version in evidence.line(arm):
            for attack in ("threshold", "lira"):
                cells = [_rate(version, f"audit_{attack}_", rate) for rate in _RATES]
                if any(cell != MISSING for cell in cells):
                    rows.append([f"{arm}, M{_raised(version.generation)}", attack, *cells])
    return table(["network", "attack", *_RATES.values()], rows) if rows else "Not run yet.\n"


def losses_table(evidence: Evidence) -> str:
    """Return what small students reached by each loss, and its difference from ``kl`` alone."""
    if not evidence.lessons:
        return "Not run yet.\n"
    like = evidence.line(ARMS[0], 0)[0]
    lines: dict[str, list[Version]] = {name: [] for name in sorted(LESSONS, key=lambda name: name != "kl")}
    for row in evidence.lessons:
        lines[row["lesson"]].append(replace(like, seed=row["seed"], metrics=row))
    agreement = {entry.line: entry.spread for entry in compare_lines(lines, _AGREEMENT).entries}
    rows = []
    for entry in compare_lines(lines, _ACCURACY).entries:
        name = f"`kl` + `{entry.line}`" if entry.line in get_args(TermName) else f"`{entry.line}`"
        rows.append(
            [
                "labels alone" if entry.line == "labels" else name,
                str(entry.spread.n),
                with_interval(entry.spread, partial(quantity, _ACCURACY)),
                *(difference_cells(entry.difference)[1:]),
                quantity(_AGREEMENT, agreement[entry.line].mean),
            ]
        )
    return table(["loss", "seeds", "test accuracy", "minus `kl`", "95 % interval", "agreement"], rows)


def _rate(version: Version, beginning: str, rate: str) -> str:
    names = (beginning + rate, f"{beginning}low_{rate}", f"{beginning}high_{rate}")
    value, low, high = (quantity(rate, version.metrics.get(name)) for name in names)
    return value if MISSING in (low, high) else f"{value} [{low}, {high}]"


def progress_line(evidence: Evidence) -> str:
    """Return how much of the evidence has been grown."""
    networks = counted(sum(len(record.family.versions) for record in evidence.records.values()), "network")
    if len(evidence.seeds) == len(SEEDS):
        return f"All {len(SEEDS)} seeds of all arms are grown: {networks}.\n"
    return (
        f"{len(evidence.seeds)} of {len(SEEDS)} seeds of all arms are grown so far ({networks});"
        " means of fewer than two seeds have no interval.\n"
    )


def figures_line(evidence: Evidence) -> str:
    """Return what the figures must have been drawn from."""
    return f"<!-- figures drawn from versions {evidence.digest} -->\n"


BLOCKS: Mapping[str, Callable[[Evidence], str]] = {
    "progress": progress_line,
    "accuracy": partial(means_table, metric=_ACCURACY),
    "contrasts": contrasts_table,
    "students": students_table,
    "ensembles": partial(means_table, metric="ensemble_accuracy"),
    "traits": traits_table,
    "study": study_table,
    "audit": audit_table,
    "seeds": seeds_table,
    "losses": losses_table,
    "figures": figures_line,
}


def fill(text: str, evidence: Evidence) -> str:
    """Return a page with the blocks that it has places for."""

    def block(place: re.Match[str]) -> str:
        return f"{place['name']}{place['head']}\n{BLOCKS[place['name']](evidence)}\n"

    return _PLACE.sub(block, text)


def _paired(reference: Sequence[Version], line: Sequence[Version]) -> list[str] | None:
    """Return the paired difference of two sets of versions, whatever their generations."""
    if not reference or not line:
        return None
    both = {
        "reference": [replace(version, generation=0) for version in reference],
        "line": [replace(version, generation=0) for version in line],
    }
    comparison: Comparison = compare_lines(both, _ACCURACY)
    return difference_cells(comparison.entries[1].difference)


def _raised(generation: int) -> str:
    return "⁰¹²³"[generation]


def draw(evidence: Evidence, overrides: Sequence[str]) -> None:
    """Draw the figures of the arms."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    arms = [str(file) for file in evidence.files if not file.stem.endswith(f"-t{TEMPERATURE}")]
    with tempfile.TemporaryDirectory() as place:
        lineage.report(arms, Path(place), overrides=overrides)
        for name in _DRAWN:
            shutil.copy(Path(place) / name, FIGURES / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-100, for the pictures of test images")
    given = parser.parse_args()
    found = read_evidence()
    draw(found, [f"data.root={given.data.resolve()}"] if given.data else [])
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8"), found), encoding="utf-8")
