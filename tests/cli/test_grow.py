import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from lineage.growing.grow import grow
from lineage.recipe import recipe_path
from lineage.registry.family.lookup import find_version, read_family
from lineage.registry.flavor import load_version

Process = subprocess.CompletedProcess[str]
Lineage = Callable[..., Process]
Options = Callable[..., list[str]]

PATRIARCH = ("--generations", "0")
NO_PORT = "http://127.0.0.1:9"  # discard: nobody listens there
CANNOT_HOLD = [
    ("--generations -1", 2, "succession.generations must be at least 0 and at most 100,000, but got -1."),
    ("--seed -1", 2, "succession.seed must be at least 0, but got -1."),
    (
        "--seed 1 --seeds 0..1",
        2,
        "Either --seed or --seeds may be given, but got both; --seeds 3..3 is one seed.",
    ),
    (
        "--dry-run --fresh",
        2,
        "--dry-run trains nothing, so that --fresh has no effect; leave out one of the two.",
    ),
    ("--seeds 4..1", 2, "--seeds must read A..B with A not above B, as in 0..4, but got '4..1'."),
    ("--seeds 4", 2, "--seeds must read A..B with A not above B, as in 0..4, but got '4'."),
    (
        "--seeds 0..1000000000000",
        2,
        "Seeds must be at most 1,000 in one call, but are more; grow them in several.",
    ),
    (
        "--parallel 2",
        2,
        "--parallel must be at least 1 and at most the number of seeds, 1, but got 2; give more --seeds A..B,"
        " or change it.",
    ),
    (
        "--seeds 0..3 --parallel 4 --processes 2",
        2,
        "Either --processes or --parallel may be above 1, but got 2 and 4;",
    ),
    (
        "--name a/b",
        2,
        "model.name must be a text that is not empty and holds neither '/' nor ':', but got 'a/b'.",
    ),
    (
        "--set patriarch.strictnes=1",
        2,
        "Unknown recipe key 'patriarch.strictnes'. Did you mean 'strictness'?",
    ),
    ("--set training.epochs=two", 2, "training.epochs must be an integer, but got 'two'."),
    (
        "--set patriarch.top_k=11",
        2,
        "patriarch.top_k must be between 2 and the number of classes, 10, but got 11.",
    ),
    (
        "--set patriarch.strictness=0",
        2,
        "patriarch.strictness must be greater than 0 and at most 1, but got 0.",
    ),
    ("--set student.temperature=-1", 2, "student.temperature must be greater than 0, but got -1."),
    (
        "--set student.temperature",
        2,
        "--set must be given section.key=value, but got 'student.temperature'.",
    ),
    (
        "--set data.root='here",
        2,
        """--set must be given TOML, but 'data.root='here' is not: Expected "'".""",
    ),
    (
        "--set data.name=cifar100 --set data.root=nowhere",
        3,
        "Data set 'cifar100' must be in a folder, but nowhere is not one; correct data.root.",
    ),
    (
        "--set data.name=cifar100",
        2,
        "Data set 'cifar100' is read from a folder, but none is given; add --set data.root=FOLDER",
    ),
    (
        "--set data.validation=0.001",
        2,
        "Each of the 10 classes must have an image in training and in validation, but data.validation=0.001"
        " cuts 2 of 1437 images; raise it, or set it to 0 for no validation.",
    ),
    (
        "--set network.options={widht=3}",
        2,
        "Network 'resnet8' takes only the options width, but got 'widht'. Did you mean 'width'?",
    ),
    (
        "--set training.batch_size=512",
        2,
        "training.batch_size must be at most the number of training images, 400, but got 512; lower it.",
    ),
    (
        "--set training.schedule=mypkg:mine",
        2,
        "Unknown schedule 'mypkg:mine'; known are constant, cosine, step.",
    ),
]
"""Arguments of ``grow digits``, the exit code, and the beginning of the error."""


@pytest.fixture(scope="module")
def grown(module_home: Path, call_main: Lineage, tiny: Options) -> Process:
    """The outcome of growing the tiny ``digits``; the family stays in the store."""
    return call_main("grow", "digits", *tiny())


def _rows(table: str) -> list[list[str]]:
    """The cells of a table's rows that begin with a generation."""
    rows = [line.replace(" %", "%").replace(" ± ", "±").split() for line in table.splitlines()]
    return [row for row in rows if row and row[0].isdigit()]


def _runs() -> list[Run]:
    """All runs of the store."""
    client = MlflowClient()
    return list(client.search_runs([found.experiment_id for found in client.search_experiments()]))


def _created() -> list[str]:
    """All that a store and a working folder hold beyond what they began with."""
    client = MlflowClient()
    return [
        *(model.name for model in client.search_registered_models()),
        *(found.name for found in client.search_experiments() if found.name != "Default"),
        *(run.info.run_id for run in _runs()),
        *(path.name for path in Path().iterdir() if path.name in {".lineage", "mlruns"}),
    ]


def _sentence(outcome: Process) -> str:
    """The one line that an error prints."""
    assert not outcome.stdout
    assert outcome.stderr.startswith("Error: ")
    assert outcome.stderr.endswith("\n")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr.removeprefix("Error: ").rstrip()


def test_grow_prints_a_table_of_generations(grown: Process) -> None:
    assert grown.returncode == 0
    versions = read_family("digits").versions
    accuracies = [f"{version.metrics['test_accuracy']:.2%}" for version in versions]
    rows = _rows(grown.stdout)
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert [row[1] for row in rows] == accuracies
    assert [row[2] for row in rows] == ["–", *accuracies[:2]]
    assert [row[-2] for row in rows] == [f"{v.metrics['ensemble_accuracy']:.2%}" for v in versions]
    assert [row[-1] for row in rows] == ["v1", "v2", "v3"]


def test_grow_tells_its_progress_on_standard_error(grown: Process) -> None:
    lines = grown.stderr.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        line
        for index in range(3)
        for line in (
            f"generation {index}: epoch 1/2",
            f"generation {index}: epoch 2/2",
            f"generation {index}: registered models:/digits/{index + 1}",
        )
    ]
    assert "images/s" in lines[0]
    assert "validation accuracy" in lines[0]


@pytest.mark.usefixtures("grown")
def test_grow_registers_linked_versions() -> None:
    family = read_family("digits")
    assert [version.generation for version in family] == [0, 1, 2]
    assert [version.teacher for version in family] == [None, "digits/1", "digits/2"]
    assert [version.objective for version in family] == ["tolerant", "student", "student"]
    assert {version.root for version in family} == {"digits/1"}


@pytest.mark.usefixtures("grown")
def test_grow_again_trains_nothing_and_says_so(call_main: Lineage, tiny: Options) -> None:
    before = read_family("digits")
    outcome = call_main("grow", "digits", *tiny())
    assert outcome.returncode == 0
    assert [row[-1] for row in _rows(outcome.stdout)] == ["v1", "v2", "v3"]
    assert outcome.stdout.endswith("All generations were registered already; nothing was trained.\n")
    assert outcome.stderr.splitlines() == [
        f"generation {index}: models:/digits/{index + 1} holds it already, not trained again"
        for index in range(3)
    ]
    assert read_family("digits") == before


@pytest.mark.usefixtures("grown")
def test_grow_prints_json(call_main: Lineage, tiny: Options) -> None:
    (lineage,) = json.loads(call_main("grow", "digits", *tiny(), "--json").stdout)
    assert lineage == {
        "name": "digits",
        "seed": 0,
        "trained": 0,
        "versions": [version.to_json() for version in read_family("digits")],
    }


@pytest.mark.usefixtures("home")
def test_grow_with_more_generations_continues(call_main: Lineage, tiny: Options) -> None:
    assert call_main("grow", "digits", *tiny(), *PATRIARCH).returncode == 0
    (lineage,) = json.loads(call_main("grow", "digits", *tiny(), "--generations", "1", "--json").stdout)
    assert lineage["trained"] == 1
    assert [version["teacher"] for version in lineage["versions"]] == [None, "digits/1"]


@pytest.mark.usefixtures("home")
def test_grow_with_a_name_leaves_the_recipes_own_alone(call_main: Lineage, tiny: Options) -> None:
    assert call_main("grow", "digits", *tiny(), *PATRIARCH, "--name", "mine").returncode == 0
    client = MlflowClient()
    assert [model.name for model in client.search_registered_models()] == ["mine"]
    assert client.get_experiment_by_name("mine") is not None
    assert client.get_experiment_by_name("digits") is None


@pytest.mark.usefixtures("home")
def test_grow_with_seeds_grows_families_in_one_model(call_main: Lineage, tiny: Options) -> None:
    outcome = call_main("grow", "digits", *tiny(), "--generations", "1", "--seeds", "0..1")
    assert outcome.returncode == 0
    family = read_family("digits")
    assert [(version.seed, version.generation) for version in family] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [version.teacher for version in family] == [None, "digits/1", None, "digits/3"]
    assert len({version.weights_sha256 for version in family}) == 4
    *_, patriarchs, students = _rows(outcome.stdout)
    for row, pair in ((patriarchs, family.versions[::2]), (students, family.versions[1::2])):
        first, second = (100 * version.metrics["test_accuracy"] for version in pair)
        deviation = abs(first - second) / 2**0.5
        assert row[1] == f"{(first + second) / 2:.2f}±{deviation:.2f}%"


@pytest.mark.usefixtures("home")
def test_grow_with_a_seed_adds_another_patriarch(call_main: Lineage, tiny: Options) -> None:
    for seed in ("0", "1", "1"):
        assert call_main("grow", "digits", *tiny(), *PATRIARCH, "--seed", seed).returncode == 0
    assert [(version.seed, version.teacher) for version in read_family("digits")] == [(0, None), (1, None)]


@pytest.mark.usefixtures("home")
def test_grow_keeps_the_settings_that_were_set(call_main: Lineage, tiny: Options) -> None:
    assert call_main("grow", "digits", *tiny("training.lr=0.05", "training.epochs=1"), *PATRIARCH)
    training = json.loads(load_version(find_version("models:/digits/1")).recipe)["training"]
    assert (training["lr"], training["epochs"], training["batch_size"]) == (0.05, 1, 64)


@pytest.mark.usefixtures("home")
def test_grow_from_a_file_needs_no_shipped_name(call_main: Lineage, tiny: Options) -> None:
    shutil.copy(recipe_path("digits"), "mine.toml")
    assert call_main("grow", "mine.toml", *tiny(), *PATRIARCH).returncode == 0
    assert len(read_family("digits")) == 1


class _Impatient:
    """A reporter that interrupts the training after its second epoch."""

    def pulled(self, version: object) -> None: ...

    def completed(self, version: object) -> None: ...

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        @trainer.on(Events.EPOCH_COMPLETED(once=2))
        def _stop(_: Engine) -> None:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("fresh", "epochs", "runs"), [(False, ["2"], 1), (True, ["1", "2"], 2)])
@pytest.mark.usefixtures("home")
def test_grow_drops_what_is_unfinished_only_with_fresh(
    fresh: bool, epochs: list[str], runs: int, call_main: Lineage, tiny: Options, tiny_settings: tuple[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        grow("digits", generations=0, overrides=tiny_settings, reporter=_Impatient())
    outcome = call_main("grow", "digits", *tiny(), *PATRIARCH, *(["--fresh"] if fresh else []))
    trained = [line for line in outcome.stderr.splitlines() if "epoch " in line and "/2" in line]
    assert [line.partition("epoch ")[2][0] for line in trained] == epochs
    assert sorted(run.info.status for run in _runs()) == ["FINISHED", "KILLED"][:runs]


@pytest.mark.parametrize(("arguments", "code", "sentence"), CANNOT_HOLD, ids=lambda value: str(value)[:40])
@pytest.mark.usefixtures("home")
def test_grow_of_what_cannot_hold_is_one_sentence_and_creates_nothing(
    arguments: str, code: int, sentence: str, call_main: Lineage, tiny: Options
) -> None:
    outcome = call_main("grow", "digits", *tiny(), *arguments.split())
    assert _sentence(outcome).startswith(sentence)
    assert outcome.returncode == code
    assert not _created()


@pytest.mark.skipif(torch.cuda.is_available(), reason="A GPU has it.")
@pytest.mark.usefixtures("home")
def test_grow_in_a_precision_that_the_hardware_lacks_is_refused(call_main: Lineage, tiny: Options) -> None:
    outcome = call_main("grow", "digits", *tiny("training.precision=fp16"))
    assert _sentence(outcome).startswith(
        "training.precision must be one that the hardware has, but 'fp16' was"
    )
    assert outcome.returncode == 2
    assert not _created()


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("digts", "There is no recipe 'digts'. Did you mean 'digits'? 'lineage recipes ls' lists them."),
        ("mine.toml", "A recipe must be a file, but there is nothing at 'mine.toml'."),
    ],
)
@pytest.mark.usefixtures("home")
def test_grow_of_an_unknown_recipe_is_refused(recipe: str, sentence: str, call_main: Lineage) -> None:
    outcome = call_main("grow", recipe)
    assert _sentence(outcome) == sentence
    assert outcome.returncode == 3
    assert not _created()


@pytest.mark.usefixtures("home")
def test_grow_of_grey_images_with_a_network_of_colours_is_refused(call_main: Lineage) -> None:
    text = recipe_path("digits").read_text().replace("width = 16\n", "")
    Path("mine.toml").write_text(text)
    outcome = call_main("grow", "mine.toml", "--set", "network.name=torchvision:resnet18")
    assert _sentence(outcome).startswith(
        "Network 'torchvision:resnet18' needs images of 3 channels, but got 1; choose one that is not"
    )
    assert outcome.returncode == 2
    assert not _created()


def test_grow_into_a_folder_that_is_not_there_is_refused(
    home: Path, call_main: Lineage, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{home / 'nowhere' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    outcome = call_main("grow", "digits", *tiny())
    assert _sentence(outcome).startswith(f"The store {store} must be writable, but {home / 'nowhere'} does")
    assert outcome.returncode == 5
    assert [path.name for path in home.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(("rank", "draws"), [("0", True), ("1", False)])
def test_live_display_is_drawn_on_the_first_rank_alone(
    rank: str, draws: bool, call_main: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    outcome = call_main("grow", "no-such-recipe")
    assert outcome.returncode == 3
    assert ("\x1b[?25l" in outcome.stderr) == draws
    assert bool(outcome.stderr) == draws


def test_grow_on_a_dead_server_is_refused_after_two_attempts(
    home: Path,
    call_main: Lineage,
    tiny: Options,
    monkeypatch: pytest.MonkeyPatch,
    connection_attempts: list[object],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NO_PORT)
    outcome = call_main("grow", "digits", *tiny())
    assert len(connection_attempts) == 2
    assert NO_PORT in _sentence(outcome)
    assert outcome.returncode == 5
    assert [path.name for path in home.iterdir()] == ["mlflow.db"]


@pytest.mark.usefixtures("home")
def test_grow_whose_loss_is_not_finite_fails_and_registers_nothing(call_main: Lineage, tiny: Options) -> None:
    outcome = call_main("grow", "digits", *tiny("training.lr=1e9"))
    assert _sentence(outcome).startswith(
        "The training loss must be finite, but is not in epoch 1, from batch "
    )
    assert outcome.returncode == 1
    (run,) = _runs()
    assert run.info.status == "FAILED"
    assert not MlflowClient().search_registered_models()


@pytest.mark.parametrize("reference", ["/1", "/3", "@best", "@latest-generation"])
@pytest.mark.usefixtures("grown")
def test_evaluate_measures_what_was_recorded_to_the_last_bit(reference: str, call_main: Lineage) -> None:
    version = find_version(f"models:/digits{reference}")
    outcome = call_main("evaluate", f"models:/digits{reference}", "--json")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    recorded = {name: value for name, value in version.metrics.items() if name.startswith("test_")}
    for beside_teacher in ("test_agreement", "test_cka", "test_explanation_similarity"):
        recorded.pop(beside_teacher, None)  # a version is measured without its teacher
    assert json.loads(outcome.stdout) == {"uri": version.uri, "metrics": recorded, "recorded": recorded}


@pytest.mark.usefixtures("grown")
def test_evaluate_prints_a_table(call_main: Lineage) -> None:
    outcome = call_main("evaluate", "models:/digits/2")
    accuracy = f"{find_version('models:/digits/2').metrics['test_accuracy']:.2%}"
    rows = [line.replace(" %", "%").split() for line in outcome.stdout.splitlines()]
    assert ["test_accuracy", accuracy, accuracy, "0"] in rows


@pytest.mark.usefixtures("grown")
def test_evaluate_on_other_images_is_refused(call_main: Lineage, tmp_path: Path) -> None:
    for part in ("train", "test"):
        folder = tmp_path / part / "only"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "black.png")
    outcome = call_main(
        "evaluate", "models:/digits/1", "--set", "data.name=imagefolder", "--set", f"data.root={tmp_path}"
    )
    assert _sentence(outcome).startswith("models:/digits/1 was grown on data with the digest ")
    assert "those of 'imagefolder' here have" in outcome.stderr
    assert outcome.returncode == 4


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ("models:/digits/4", 3, "holds no models:/digits/4"),
        ("models:/digits@worst", 3, "holds no models:/digits@worst"),
        ("models:/digts/1", 3, "holds no registered model 'digts'. Did you mean 'digits'?"),
        ("digits/1", 2, "must read models:/NAME/VERSION or models:/NAME@ALIAS, but got 'digits/1'."),
        ("models:/digits/1 --set data.rot=x", 2, "Unknown recipe key 'data.rot'. Did you mean 'root'?"),
    ],
)
@pytest.mark.usefixtures("grown")
def test_evaluate_of_what_is_not_there_is_refused(
    arguments: str, code: int, error: str, call_main: Lineage
) -> None:
    outcome = call_main("evaluate", *arguments.split())
    assert error in _sentence(outcome)
    assert outcome.returncode == code
