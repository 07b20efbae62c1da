import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import lineage
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version, read_family

Process = subprocess.CompletedProcess[str]
Lineage = Callable[..., Process]


@pytest.fixture(scope="module", autouse=True)
def families(module_home: object, call_main: Lineage, tiny: Callable[..., list[str]]) -> None:
    """Two families of two seeds, a patriarch and a student each: ``digits`` is tolerant, ``born`` strict."""
    options = ["--generations", "1", "--seeds", "0..1"]
    for name, objective in (("digits", "tolerant"), ("born", "strict")):
        settings = tiny(f"patriarch.objective={objective}")
        assert call_main("grow", "digits", "--name", name, *settings, *options).returncode == 0


def _accuracies(name: str, generation: int) -> list[float]:
    """Return the test accuracy of both seeds in one generation, by seed."""
    versions = [version for version in read_family(name) if version.generation == generation]
    return [v.metrics["test_accuracy"] for v in sorted(versions, key=lambda version: version.seed)]


def _error_line(outcome: Process, code: int) -> str:
    """Return the one line that an error prints."""
    assert outcome.returncode == code
    assert not outcome.stdout
    assert outcome.stderr.startswith("Error: ")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr


def test_ls_lists_families_last_changed_first(call_main: Lineage) -> None:
    families = json.loads(call_main("ls", "--json").stdout)
    assert [(family["name"], family["newest"]) for family in families] == [("born", 4), ("digits", 4)]
    best = find_version("models:/born@best")
    assert families[0]["best"]["version"] == best.version
    lines = [line.split() for line in call_main("ls").stdout.splitlines()]
    accuracy = f"{100 * best.metrics['test_accuracy']:.2f}"
    assert next(line[:4] for line in lines if line[:1] == ["born"]) == [
        "born",
        "v4",
        f"v{best.version}",
        accuracy,
    ]


def test_show_counts_classes_and_what_they_are_mistaken_for(call_main: Lineage) -> None:
    shown = json.loads(call_main("show", "models:/digits/1", "--classes", "--json").stdout)
    predicted = lineage.predictions("models:/digits/1")
    assert [row["name"] for row in shown["classes"]] == list(predicted.class_names) == list("0123456789")
    right = sum(row["images"] * row["accuracy"] for row in shown["classes"])
    assert right / len(predicted) == pytest.approx(shown["metrics"]["test_accuracy"])
    mistakes = sum(mistake["images"] for row in shown["classes"] for mistake in row["mistaken_for"])
    assert mistakes == (predicted.classes[:, 0] != predicted.labels).sum()
    table = call_main("show", "models:/digits/1", "--classes").stdout.partition(
        "Classes of models:/digits/1"
    )[2]
    worst = min(shown["classes"], key=lambda row: row["accuracy"])
    row = table.splitlines()[3].split()
    assert row[:3] == [worst["name"], str(worst["images"]), f"{100 * worst['accuracy']:.2f}"]
    assert "classes" not in json.loads(call_main("show", "models:/digits/1", "--json").stdout)


def test_frame_has_a_row_for_each_version_with_typed_columns() -> None:
    table = lineage.frame("digits", settings=True)
    versions = read_family("digits").versions
    assert table.index.tolist() == [version.uri for version in versions]
    assert table.generation.tolist() == [0, 1, 0, 1]
    assert table.test_accuracy.tolist() == [version.metrics["test_accuracy"] for version in versions]
    assert table.created.dt.year.min() >= 2024
    assert table["patriarch.objective"].tolist() == ["tolerant"] * 4
    assert table["training.epochs"].nunique() == 1
    assert table.test_accuracy.dtype == float


def test_compare_from_python_is_what_the_command_prints(call_main: Lineage) -> None:
    printed = json.loads(call_main("compare", "digits", "born", "--json").stdout)
    assert lineage.compare(["digits", "born"]).to_json() == printed


def test_tree_draws_students_under_their_teachers(call_main: Lineage) -> None:
    outcome = call_main("tree", "digits")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    family, *lines = outcome.stdout.splitlines()
    assert family.split() == ["digits", "4", "versions"]
    assert [line.partition("  generation")[0] for line in lines] == [
        "├─ v1",
        "│  └─ v2",
        "└─ v3",
        "   └─ v4",
    ]
    ends = ["tolerant  seed 0", "student  seed 0", "tolerant  seed 1", "student  seed 1"]
    assert all(line.endswith(end) for line, end in zip(lines, ends, strict=True))


def test_tree_prints_json_with_edges(call_main: Lineage) -> None:
    outcome = call_main("tree", "digits", "--json")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert json.loads(outcome.stdout) == {
        "name": "digits",
        "versions": [version.to_json() for version in read_family("digits")],
        "edges": [["digits/1", "digits/2"], ["digits/3", "digits/4"]],
        "removed": [],
        "students_elsewhere": [],
    }


@pytest.mark.parametrize(
    ("option", "first", "edge"),
    [
        ("--dot", 'digraph "digits" {', '  "digits/1" -> "digits/2";'),
        ("--mermaid", "---", "    v1 --> v2"),
    ],
)
def test_tree_prints_a_graph(option: str, first: str, edge: str, call_main: Lineage) -> None:
    outcome = call_main("tree", "digits", option)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert lines[0] == first
    assert edge in lines


def test_page_holds_as_many_test_images_as_were_asked_for(module_home: Path, call_main: Lineage) -> None:
    assert call_main("tree", "digits", "--html", "tree.html", "--images", "7").returncode == 0
    page = (module_home / "tree.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    student = data["images"]["digits/2"]
    assert [network["id"] for network in student["networks"]] == ["digits/2", "digits/1"]
    pictures = data["pictures"][student["data"]]["addresses"]
    assert list(map(int, pictures)) == student["rows"]
    assert len(pictures) == 7


def test_images_without_a_page_are_refused(call_main: Lineage) -> None:
    error = _error_line(call_main("tree", "digits", "--images", "7"), code=2)
    assert error == "Error: --images is for the page that --html writes, but --html is not given; add it.\n"


@pytest.mark.parametrize("options", [["--dot", "--json"], ["--mermaid", "--dot"], ["--json", "--html", "t"]])
def test_tree_in_several_forms_is_refused(options: list[str], call_main: Lineage) -> None:
    error = _error_line(call_main("tree", "digits", *options), code=2)
    assert (
        error == "Error: At most one of --json, --dot, --mermaid and --html may be given, but got several.\n"
    )


@pytest.mark.parametrize("command", ["tree", "compare"])
def test_unknown_model_is_not_found_and_a_near_one_suggested(command: str, call_main: Lineage) -> None:
    error = _error_line(call_main(command, "digts"), code=3)
    assert "holds no registered model 'digts'. Did you mean 'digits'?" in error


@pytest.mark.parametrize(
    ("reference", "found"), [("/3", 3), ("@latest-generation", 4)], ids=["version", "alias"]
)
def test_show_prints_json(reference: str, found: int, call_main: Lineage) -> None:
    outcome = call_main("show", f"models:/digits{reference}", "--json")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    printed = json.loads(outcome.stdout)
    assert printed.pop("settings")["patriarch.objective"] == "tolerant"
    assert printed == find_version(f"models:/digits/{found}").to_json()


def test_show_prints_a_table(call_main: Lineage) -> None:
    version: Version = find_version("models:/digits/2")
    rows = [line.split() for line in call_main("show", version.uri).stdout.splitlines()]
    assert [version.uri] in rows
    assert ["teacher", "digits/1"] in rows
    assert ["patriarch.objective", "tolerant"] in rows
    assert ["weights", "sha256", version.weights_sha256] in rows
    assert ["test_accuracy", f"{100 * version.metrics['test_accuracy']:.2f}", "%"] in rows


@pytest.mark.parametrize(
    ("uri", "code", "fragment"),
    [
        ("digits/1", 2, "must read models:/NAME/VERSION or models:/NAME@ALIAS, but got 'digits/1'."),
        (
            "models:/digits",
            2,
            "must read models:/NAME/VERSION or models:/NAME@ALIAS, but got 'models:/digits'.",
        ),
        ("models:/digts/1", 3, "Did you mean 'digits'?"),
        ("models:/digits/9", 3, "holds no models:/digits/9"),
        ("models:/digits@worst", 3, "holds no models:/digits@worst"),
    ],
)
def test_show_of_what_is_not_there_is_refused(uri: str, code: int, fragment: str, call_main: Lineage) -> None:
    assert fragment in _error_line(call_main("show", uri), code)


def test_compare_pairs_differences_by_seed(call_main: Lineage) -> None:
    outcome = call_main("compare", "digits", "born", "--json")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    comparison = json.loads(outcome.stdout)
    assert comparison["lines"] == ["digits", "born"]
    assert comparison["metric"] == "test_accuracy"
    assert [(entry["generation"], entry["line"]) for entry in comparison["entries"]] == [
        (0, "digits"),
        (0, "born"),
        (1, "digits"),
        (1, "born"),
    ]
    for generation, entry in enumerate(comparison["entries"][1::2]):
        first, second = (
            born - digits
            for born, digits in zip(
                _accuracies("born", generation), _accuracies("digits", generation), strict=True
            )
        )
        assert entry["mean"] == pytest.approx(sum(_accuracies("born", generation)) / 2)
        assert entry["difference"]["pairs"] == 2
        assert entry["difference"]["mean"] == pytest.approx((first + second) / 2)
        half = 12.706204736 * abs(first - second) / 2  # t(1 degree of freedom) · s / √2, and s = |a - b| / √2
        assert entry["difference"]["interval"] == pytest.approx(
            [(first + second) / 2 - half, (first + second) / 2 + half]
        )


def test_compare_prints_a_table(call_main: Lineage) -> None:
    lines = call_main("compare", "digits", "born").stdout.splitlines()
    difference = sum(_accuracies("born", 1)) / 2 - sum(_accuracies("digits", 1)) / 2
    *_, row = (line for line in lines if "born" in line and "2 of 2" in line)
    assert f" {100 * difference:+.2f} " in row
    assert lines[0].strip() == "test_accuracy"


def test_compare_takes_another_metric(call_main: Lineage) -> None:
    comparison = json.loads(call_main("compare", "born", "--metric", "ensemble_accuracy", "--json").stdout)
    assert comparison["metric"] == "ensemble_accuracy"
    assert [entry["n"] for entry in comparison["entries"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["digits", "--metric", "test_acuracy"], "Did you mean 'test_accuracy'?"),
        (["digits", "digits"], "takes a registered model once, but got 'digits' again"),
    ],
)
def test_compare_of_what_cannot_hold_is_refused(
    arguments: list[str], fragment: str, call_main: Lineage
) -> None:
    assert fragment in _error_line(call_main("compare", *arguments), code=2)


@pytest.mark.parametrize(
    "arguments", [["tree", "digits"], ["show", "models:/digits/1"], ["compare", "digits"]]
)
def test_store_that_is_not_there_is_unreachable(
    arguments: list[str], call_main: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    error = _error_line(call_main(*arguments), code=5)
    assert error.startswith("Error: The store sqlite:////nowhere/mlflow.db must be")
