"""The pages on the evidence hold the numbers of its kept texts."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from account import BLOCKS, FIGURES, PAGES, Evidence, fill, read_evidence
from records import small_record

from lineage.formats import MISSING


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return read_evidence()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_holds_the_numbers_of_the_texts(page: Path, evidence: Evidence) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text, evidence) == text, "run 'make account'"


def test_page_has_a_place_for_every_block_and_every_figure() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"<!-- evidence: ([a-z-]+) -->", text)) == BLOCKS.keys()
    shown = set(re.findall(r"\(images/evidence/([a-z.]+)\)", text))
    assert shown == {file.name for file in FIGURES.iterdir()}


def test_changed_number_in_a_page_is_found(evidence: Evidence) -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    number = re.search(r"\d\d\.\d\d %", text)
    assert number is not None
    changed = text.replace(number[0], "12.34 %")
    assert fill(changed, evidence) == text != changed


def test_study_and_audits_are_tabled_once_they_are_there() -> None:
    assert BLOCKS["study"](Evidence({}, [])) == BLOCKS["audit"](Evidence({}, [])) == "Not run yet.\n"
    trials = [
        {
            "values": {"patriarch.strictness": strictness, "student.temperature": temperature},
            "objectives": {"accuracy": strictness / 2 + temperature / 100},
        }
        for strictness in (0.6, 1.0)
        for temperature in (1.0, 4.0)
    ]
    shown = BLOCKS["study"](Evidence({}, [], trials))
    assert shown.splitlines()[2:] == ["| η 0.6 | 31.00 % | 34.00 % |", "| η 1 | 51.00 % | 54.00 % |"]

    record = small_record(seeds=1, generations=1)
    rates = json.dumps({"auc": 0.6, "low_auc": 0.5, "high_auc": 0.7, "tpr_at_fpr_0.01": 0.02})
    audited = replace(record.versions[0], tags=record.versions[0].tags | {"lineage.audit.lira": rates})
    shown = BLOCKS["audit"](Evidence({"strict": replace(record, versions=(audited,))}, []))
    assert shown.splitlines()[2:] == ["| strict, M⁰ | lira | 60.00 % [50.00 %, 70.00 %] | 2.00 % | – |"]


def test_losses_are_compared_with_kl_seed_by_seed() -> None:
    rows = [
        {"lesson": lesson, "seed": seed, "test_accuracy": accuracy, "test_agreement": 0.5}
        for lesson, accuracies in {"hint": (0.31, 0.33), "kl": (0.3, 0.31), "labels": (0.2,)}.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    shown = BLOCKS["losses"](Evidence({"strict": small_record(seeds=1, generations=1)}, [], (), rows))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines()[2:]]
    assert [(line[0], line[1], line[3], line[5]) for line in cells] == [
        ("`kl`", "2", MISSING, "50.00 %"),
        ("labels alone", "1", "-10.00", "50.00 %"),
        ("`kl` + `hint`", "2", "+1.50", "50.00 %"),
    ]
    assert cells[2][4] == "-4.85 to +7.85"
    assert BLOCKS["losses"](Evidence({}, [])) == "Not run yet.\n"


def test_means_and_differences_are_those_of_the_seeds(evidence: Evidence) -> None:
    accuracy = {
        arm: {(one.seed, one.generation): one.metrics["test_accuracy"] for one in evidence.line(arm)}
        for arm in ("strict", "tolerant")
    }
    pairs = [
        seed
        for seed, generation in accuracy["strict"]
        if generation == 1 and (seed, 1) in accuracy["tolerant"]
    ]
    points = [100 * (accuracy["tolerant"][seed, 1] - accuracy["strict"][seed, 1]) for seed in pairs]
    assert f"| **{len(pairs)}** | **{sum(points) / len(pairs):+.2f}** |" in BLOCKS["contrasts"](evidence)
