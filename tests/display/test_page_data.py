import base64
import hashlib
import json
import math
import re
from dataclasses import replace

import pytest

from lineage.display.page.render import join_modules, module_names, page_asset, single_file_page
from lineage.display.page_data import PageContext, family_document
from lineage.registry.care.remove import Tombstone
from lineage.registry.family.family import Family, Member, Version
from lineage.registry.store.progress import GrowingRun

BASE = Version(
    name="digits", version=1, objective="tolerant", recipe_digest="r", model_id="m-1", run_id="r-1"
)


def student(number: int, teacher: str, generation: int, **changes: object) -> Version:
    one = replace(
        BASE,
        version=number,
        teacher=teacher,
        generation=generation,
        objective="student",
        run_id=f"r-{number}",
        model_id=f"m-{number}",
    )
    return replace(one, **changes)  # type: ignore[arg-type]


@pytest.fixture
def family() -> Family:
    """A patriarch, two students in a row, their ensemble, and a student of another family."""
    members = tuple(Member(f"digits/{number}", f"m-{number}", "w", 0.5) for number in (1, 2))
    return Family(
        "digits",
        (
            replace(BASE, metrics={"test_accuracy": 0.9, "test_calibration_error": 0.1}),
            student(2, "digits/1", 1, metrics={"test_accuracy": 0.95, "seconds": math.inf}),
            student(3, "digits/2", 2, aliases=("best",)),
            replace(BASE, version=4, kind="ensemble", objective="ensemble", members=members, run_id="r-4"),
            student(5, "other/7", 4),
        ),
    )


def by_id(document: dict[str, object]) -> dict[str, dict[str, object]]:
    return {node["id"]: node for node in document["nodes"]}  # type: ignore[attr-defined]


def test_every_version_is_a_node_with_its_parents(family: Family) -> None:
    nodes = by_id(family_document(family))
    assert nodes["digits/3"]["parents"] == ["digits/2"]
    assert nodes["digits/4"]["parents"] == ["digits/1", "digits/2"]
    assert (nodes["digits/4"]["kind"], nodes["digits/4"]["column"]) == ("ensemble", 2)
    assert nodes["digits/3"]["aliases"] == ["best"]
    assert nodes["digits/2"]["run"] == "r-2"


def test_teacher_of_another_family_is_a_node_of_its_own(family: Family) -> None:
    nodes = by_id(family_document(family))
    assert nodes["other/7"]["kind"] == "outside"
    assert nodes["other/7"]["column"] == nodes["digits/5"]["column"] - 1  # type: ignore[operator]


def test_student_under_another_name_is_a_node_below_its_teacher(family: Family) -> None:
    elsewhere = replace(student(1, "digits/3", 3), name="small")
    node = by_id(family_document(family, PageContext(elsewhere=[elsewhere])))["small/1"]
    assert (node["kind"], node["parents"], node["parent"]) == ("outside", ["digits/3"], "digits/3")


def test_numbers_stand_in_the_order_of_the_metrics(family: Family) -> None:
    document = family_document(family)
    names = [metric["name"] for metric in document["metrics"]]
    assert names == ["test_accuracy", "test_calibration_error", "seconds"]
    assert [metric["better"] for metric in document["metrics"]] == [1, -1, 0]
    assert by_id(document)["digits/1"]["values"] == [0.9, 0.1, None]


def test_number_that_is_not_finite_is_none(family: Family) -> None:
    assert by_id(family_document(family))["digits/2"]["values"] == [0.95, None, None]


def test_transfers_are_metrics_of_the_versions(family: Family) -> None:
    transfers = {"m-2": {("cifar10", "logistic"): 0.61}}
    document = family_document(family, PageContext(transfers=transfers))
    place = next(i for i, metric in enumerate(document["metrics"]) if "cifar10" in metric["label"])
    assert document["metrics"][place]["label"] == "cifar10 accuracy (logistic)"
    assert document["metrics"][place]["sign"] == " %"
    assert [node["values"][place] for node in document["nodes"]].count(0.61) == 1


def test_what_grows_stands_beside_its_teacher(family: Family) -> None:
    growing = GrowingRun("run-9", "r-3", generation=3, seed=1, epoch=2, epochs=8, last_update=5)
    node = by_id(family_document(family, PageContext(growing=(growing,))))["run/run-9"]
    assert (node["kind"], node["parent"], node["column"]) == ("growing", "digits/3", 3)
    assert (node["epoch"], node["epochs"]) == (2, 8)


def test_tombstone_stands_where_the_version_stood(family: Family) -> None:
    gone = Family("digits", tuple(version for version in family if version.version != 2))
    tombstone = Tombstone(family.versions[1], removed=77)
    nodes = by_id(family_document(gone, PageContext(removed=(tombstone,))))
    assert (nodes["digits/2"]["kind"], nodes["digits/2"]["removed"]) == ("removed", 77)
    assert nodes["digits/3"]["parent"] == "digits/2"


def test_columns_are_titled_by_generation_once(family: Family) -> None:
    versions = (*family.versions[:4], student(6, "digits/4", 3), student(7, "digits/3", 3))
    titles = family_document(Family("digits", versions))["columns"]
    assert titles == ["generation 0", "generation 1", "generation 2", "generation 3"]
    mixed = family_document(
        Family("digits", (*versions, student(8, "digits/7", 4), student(9, "digits/6", 5)))
    )
    assert mixed["columns"][4] == ""


def test_page_runs_nothing_but_its_own_script(family: Family) -> None:
    hostile = replace(family.versions[0], objective="</script><img src=x onerror=alert(1)>")
    page = single_file_page(
        family_document(Family("digits", (hostile,))), {"r": {"a": "</script><script>alert(2)"}}
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    script = join_modules({name: page_asset(name) for name in module_names()})
    for text in (page_asset("page.css"), script):
        assert text in page
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none';")
    assert page.count("</script>") == 2  # of the data and of the script
    assert "<img" not in page
    assert not re.search(r'(src|href)="lineage/', page)  # nothing is left to load
    assert not re.search(r"^(import|export)", page, re.MULTILINE)


def test_page_holds_what_it_was_given(family: Family) -> None:
    document = family_document(family)
    page = single_file_page(document, {"r": {"training.lr": "0.1"}})
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == {"family": document, "settings": {"r": {"training.lr": "0.1"}}}


def test_page_loads_nothing_from_elsewhere() -> None:
    for name in ("page.html.jinja", "page.css", *module_names()):
        text = page_asset(name).replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text)
