import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lineage.display.study_progress import ConsoleStudyReporter

Process = subprocess.CompletedProcess[str]
Lineage = Callable[..., Process]
Options = Callable[..., list[str]]

HAS_PLOTLY = importlib.util.find_spec("plotly") is not None
PLOTS = ["history", "slice"]  # the others need more trials
SPACE = ["--space", "strictness=0.5,1.0", "temperature=1,4"]

CANNOT_HOLD = [
    (
        "digits",
        2,
        "A study must have a space, but this one has none; add [study.space] to the recipe or give",
    ),
    (
        "digits --space strictnes=0.4:1",
        2,
        "Unknown recipe key 'strictnes' in a study's space. Did you mean 'stri",
    ),
    ("digits --space temperature=0:8", 2, "student.temperature must be greater than 0, but got 0."),
    (
        "top_k=3,4 --space temperature=1:8",
        3,
        "There is no database of studies sqlite:///studies.db; name another one with --storage or"
        " LINEAGE_STUDIES. A study that is to begin must be given a recipe; see 'lineage recipes ls'.",
    ),
    (
        "digits digts temperature=1:8",
        2,
        "A study must be given one recipe, but got 'digits' and 'digts'; see",
    ),
    ("digts --space temperature=1:8", 3, "There is no recipe 'digts'. Did you mean 'digits'?"),
    (
        "digits --space nowhere.toml",
        3,
        "--space must be key=RANGE or a TOML file, but there is no file 'nowhere.",
    ),
    (
        "digits --space temperature=1:8 --set data.validation=0",
        2,
        "data.validation must be greater than 0 for a study, which chooses by the validation part and",
    ),
    (
        "digits --space temperature=1:8 --objective test_accuracy",
        2,
        "study.objective must be measured on the validation part, but got 'test_accuracy': what is",
    ),
    (
        "digits --space temperature=1:8 --sampler tp",
        2,
        "study.sampler must be 'tpe', 'gp', 'cmaes', 'grid', 'ra",
    ),
    (
        "digits --space temperature=1:8 --pruner hyper",
        2,
        "study.pruner must be 'median', 'percentile', 'hyperba",
    ),
    (
        "digits --space temperature=1:8 --sampler grid",
        2,
        "The grid sampler must know every value, but student.",
    ),
    (
        "digits --space temperature=1:8 --workers 2",
        2,
        "--workers 2 needs a database that several processes can write, but sqlite:///studies.db takes one",
    ),
    (
        "digits --space temperature=1:8 --storage postgresql+psycopg2://me:secret@127.0.0.1:1/studies",
        5,
        "The database of studies, postgresql+psycopg2://me:***@127.0.0.1:1/studies, must be reachable",
    ),
]
"""Arguments of ``study``, its exit code and the beginning of its error."""


@pytest.fixture(scope="module")
def studied(module_home: Path, call_main: Lineage, tiny: Options) -> Process:
    """Output of a study of the tiny ``digits``, which stays in the store."""
    options = ["--sampler", "grid", *tiny("succession.generations=1", "training.epochs=1")]
    return call_main("study", "digits", "--name", "s", *options, *SPACE)


def _rows(table: str) -> list[list[str]]:
    """Return the cells of a table's rows that begin with a number."""
    rows = [line.replace(" %", "%").replace(" of ", "/").split() for line in table.splitlines()]
    return [row for row in rows if len(row) > 5 and row[0].isdigit() and row[1][0].isdigit()]


def _sentence(outcome: Process) -> str:
    """Return the one line that an error prints."""
    assert not outcome.stdout
    assert outcome.stderr.startswith("Error: ")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr.removeprefix("Error: ").rstrip()


def test_study_prints_a_table_of_trials(studied: Process) -> None:
    assert studied.returncode == 0, studied.stderr
    rows = _rows(studied.stdout)
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert {(row[1], row[2]) for row in rows} == {("0.5", "1"), ("0.5", "4"), ("1", "1"), ("1", "4")}
    assert sorted(row[4] for row in rows) == ["1/2", "1/2", "2/2", "2/2"]
    assert "4 trials: 4 complete." in studied.stdout
    assert "8 generations needed, 6 trained: 2 trainings saved." in studied.stdout
    assert "wins: models:/s@best-of-s is models:/s/" in studied.stdout


def test_study_tells_its_trials_on_standard_error_and_no_test_accuracy(studied: Process) -> None:
    lines = studied.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"trial {n}" for n in range(4) for _ in range(4)]
    assert lines[0].startswith("trial 0: strictness ")
    assert "registered models:/s/1, validation accuracy" in lines[1]
    assert sum("holds it already" in line for line in lines) == 2
    assert lines[3].startswith("trial 0: accuracy ")
    assert "test" not in studied.stderr + studied.stdout


@pytest.mark.usefixtures("studied")
def test_study_prints_json_and_continues(call_main: Lineage, tiny: Options) -> None:
    options = ["--sampler", "grid", "--json", *tiny("succession.generations=1", "training.epochs=1")]
    outcome = call_main("study", "digits", "--name", "s", *options, *SPACE)
    assert outcome.stderr == ""
    result = json.loads(outcome.stdout)
    assert (result["needed"], result["trained"], result["saved"]) == (8, 6, 2)
    assert (result["alias"], result["objectives"]) == ("best-of-s", {"accuracy": "maximize"})
    assert [trial["state"] for trial in result["trials"]] == ["COMPLETE"] * 4


@pytest.mark.usefixtures("studied")
def test_study_continues_by_its_name_alone(call_main: Lineage) -> None:
    outcome = call_main("study", "--name", "s", "--json")
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert outcome.stderr == ""
    assert [trial["state"] for trial in result["trials"]] == ["COMPLETE"] * 4
    assert json.loads(call_main("study", "--name", "s", "--json", *SPACE).stdout) == result
    changed = call_main("study", "--name", "s", "--set", "training.epochs=3")
    assert changed.returncode == 4
    assert _sentence(changed).startswith(
        "The study 's' must go on as it was begun, but training.epochs was 1"
    )
    unknown = call_main("study", "--name", "t")
    assert unknown.returncode == 3
    assert _sentence(unknown).endswith(
        "A study that is to begin must be given a recipe; see 'lineage recipes ls'."
    )


@pytest.mark.usefixtures("studied")
def test_study_of_a_changed_recipe_is_refused(call_main: Lineage, tiny: Options) -> None:
    options = ["--sampler", "grid", *tiny("succession.generations=1", "training.epochs=3")]
    outcome = call_main("study", "digits", "--name", "s", *options, *SPACE)
    assert outcome.returncode == 4
    assert _sentence(outcome) == (
        "The study 's' must go on as it was begun, but training.epochs was 1 and is 3. Give it those settings"
        " again, or begin another one with --name."
    )


@pytest.mark.usefixtures("studied")
def test_report_plots_into_files_and_into_the_studys_run(call_main: Lineage, tmp_path: Path) -> None:
    outcome = call_main("study-report", "s", "--out", str(tmp_path / "plots"))
    assert outcome.returncode == 0, outcome.stderr
    assert "4 trials: 4 complete." in outcome.stdout
    assert "a contour need at least 8 complete trials for 2 keys, but there are 4" in outcome.stdout
    written = sorted(path.name for path in (tmp_path / "plots").iterdir())
    expected = [f"{name}.png" for name in PLOTS] + (["study.html"] if HAS_PLOTLY else [])
    assert written == sorted(expected)
    for name in PLOTS:
        image = (tmp_path / "plots" / f"{name}.png").read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) > 5_000
    run_id = json.loads(call_main("study-report", "s", "--json").stdout)["run_id"]
    artifacts = [file.path for file in MlflowClient().list_artifacts(run_id, "report")]
    assert sorted(artifacts) == [f"report/{name}" for name in written]
    if not HAS_PLOTLY:
        assert "Interactive plots need the package plotly, which is not installed" in outcome.stdout


@pytest.mark.skipif(not HAS_PLOTLY, reason="plotly is not installed: pip install '.[studies]'.")
@pytest.mark.usefixtures("studied")
def test_page_of_a_report_needs_no_network(call_main: Lineage, tmp_path: Path) -> None:
    assert call_main("study-report", "s", "--out", str(tmp_path)).returncode == 0
    page = (tmp_path / "study.html").read_text()
    assert page.count("Plotly.newPlot(") >= 2
    assert "<script src=" not in page


@pytest.mark.usefixtures("studied")
def test_report_prints_json(call_main: Lineage, tmp_path: Path) -> None:
    report = json.loads(call_main("study-report", "s", "--out", str(tmp_path), "--json").stdout)
    assert report["importances"] == {}
    assert "The importances of keys and a contour need at least 8 complete trials" in report["remarks"][0]
    assert len(report["trials"]) == 4
    assert {Path(file).parent for file in report["files"]} == {tmp_path}


@pytest.mark.usefixtures("home")
def test_report_of_a_front_has_plots_of_each_objective(
    call_main: Lineage, tiny: Options, tmp_path: Path
) -> None:
    options = ["--objective", "accuracy,seconds", *tiny("succession.generations=0", "training.epochs=1")]
    space = ["--sampler", "grid", "--space", "strictness=0.5,1.0"]
    outcome = call_main("study", "digits", "--name", "front", *options, *space)
    assert outcome.returncode == 0, outcome.stderr
    assert "on the front" in outcome.stdout
    assert call_main("study-report", "front", "--out", str(tmp_path / "plots")).returncode == 0
    written = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert {"history-accuracy", "slice-seconds", "front"} <= written


@pytest.mark.usefixtures("home")
def test_report_without_the_studys_run_keeps_files(call_main: Lineage, tiny: Options, tmp_path: Path) -> None:
    options = ["--sampler", "grid", *tiny("succession.generations=0", "training.epochs=1")]
    outcome = call_main("study", "digits", "--name", "s", "--json", *options, "--space", "strictness=0.5,1")
    MlflowClient().delete_run(json.loads(outcome.stdout)["run_id"])
    outcome = call_main("study-report", "s", "--out", str(tmp_path / "plots"))
    assert outcome.returncode == 0
    assert "The study's MLflow run is gone, so the plots are kept in files only." in outcome.stdout


@pytest.mark.usefixtures("home")
def test_report_of_too_few_trials_says_so(call_main: Lineage, tiny: Options) -> None:
    options = ["--trials", "1", *tiny("succession.generations=0", "training.epochs=1")]
    assert (
        call_main("study", "digits", "--name", "s", *options, "--space", "strictness=0.4:1").returncode == 0
    )
    outcome = call_main("study-report", "s")
    assert outcome.returncode == 0
    assert outcome.stdout.endswith("Plots need at least 2 complete trials, but there are 1.\n")


@pytest.mark.usefixtures("studied")
def test_report_of_an_unknown_study_is_refused(call_main: Lineage) -> None:
    outcome = call_main("study-report", "t")
    assert outcome.returncode == 3
    assert _sentence(outcome) == (
        "The database sqlite:///studies.db holds no study 't' of lineage. Name another database with"
        " --storage."
    )


@pytest.mark.usefixtures("home")
def test_report_creates_no_database(call_main: Lineage) -> None:
    assert call_main("study-report", "t").returncode == 3
    assert not Path("studies.db").exists()


@pytest.mark.usefixtures("home")
def test_space_is_read_from_a_file_and_words_around_the_recipe(call_main: Lineage, tiny: Options) -> None:
    Path("space.toml").write_text('"patriarch.strictness" = [0.5]\n')
    options = ["--sampler", "grid", "--json", *tiny("succession.generations=0", "training.epochs=1")]
    outcome = call_main("study", "--space", "space.toml", "top_k=3,4", "digits", "--name", "s", *options)
    assert outcome.returncode == 0, outcome.stderr
    tried = [tuple(trial["values"].values()) for trial in json.loads(outcome.stdout)["trials"]]
    assert sorted(tried) == [(0.5, 3), (0.5, 4)]


@pytest.mark.usefixtures("home")
def test_space_file_holds_further_keys_of_a_study(call_main: Lineage, tiny: Options) -> None:
    text = '[study]\nsampler = "grid"\nobjective = "cross_entropy"\n[study.space]\ntop_k = [3, 4]\n'
    Path("space.toml").write_text(text)
    command = ["study", "digits", "--name", "s", "--space", "space.toml", "--json"]
    command += tiny("succession.generations=0", "training.epochs=1")
    outcome = call_main(*command)
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["objectives"] == {"cross_entropy": "minimize"}
    assert sorted(trial["values"]["patriarch.top_k"] for trial in result["trials"]) == [3, 4]
    for option in ("--sampler", "random"), ("--objective", "accuracy"):
        refused = call_main(*command, *option)
        assert refused.returncode == 2
        assert _sentence(refused) == (
            f"study.{option[0][2:]} must be given once, but comes from --space and from another option; leave"
            " one of them out."
        )


@pytest.mark.usefixtures("home")
def test_interrupted_study_leaves_with_130(
    call_main: Lineage, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    options = ["--trials", "1", *tiny("succession.generations=0", "training.epochs=1")]
    command = ["study", "digits", "--name", "s", *options, "--space", "strictness=0.4:1"]
    with monkeypatch.context() as patch:
        patch.setattr(ConsoleStudyReporter, "begin", interrupt)
        outcome = call_main(*command)
    assert outcome.returncode == 130
    assert outcome.stderr.startswith("Interrupted; the same command continues from the last complete epoch: ")
    result = json.loads(call_main(*command, "--json").stdout)
    assert [(trial["state"], trial["reason"]) for trial in result["trials"]] == [
        ("FAIL", "interrupted"),
        ("COMPLETE", ""),
    ]


@pytest.mark.parametrize(("arguments", "code", "sentence"), CANNOT_HOLD, ids=lambda value: str(value)[:60])
def test_study_of_what_cannot_hold_is_one_sentence_and_creates_nothing(
    arguments: str, code: int, sentence: str, home: Path, call_main: Lineage, tiny: Options
) -> None:
    outcome = call_main("study", *arguments.split(), "--name", "s", *tiny())
    assert _sentence(outcome).startswith(sentence)
    assert outcome.returncode == code
    assert [path.name for path in home.iterdir()] == ["mlflow.db"]
    client = MlflowClient()
    assert not client.search_registered_models()
    assert [found.name for found in client.search_experiments()] == ["Default"]
