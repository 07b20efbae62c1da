"""Students of another network than their teacher's: one recipe for a chain from large to small."""

from pathlib import Path

import pytest
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from rich.console import Console

import lineage
from lineage.display.forecast import Forecast, forecast_table
from lineage.display.progress import SilentReporter
from lineage.display.tables import version_table
from lineage.display.tree import rich_tree
from lineage.errors import RecipeError
from lineage.growing.plan import check_against_data, read_split_data
from lineage.growing.succession import Succession
from lineage.recipe import Recipe, flatten, load_recipe

CHAIN = """
[model]
name = "chain"
[data]
name = "digits"
train_samples = 400
[network]
name = "resnet8"
width = 8
[patriarch]
objective = "strict"
[student]
label_weight = 0.3
network = { name = "resnet8", width = 6 }
[training]
epochs = 2
batch_size = 64
[succession]
generations = 2
[[succession.student]]
generation = 2
label_weight = 0.5
epochs = 3
network = { name = "resnet8", width = 4 }
"""


@pytest.fixture(scope="module")
def recipe(module_home: Path) -> str:
    """File of a recipe whose three generations have three networks."""
    Path("chain.toml").write_text(CHAIN)
    return str(module_home / "chain.toml")


@pytest.fixture(scope="module")
def grown(recipe: str) -> tuple[lineage.Version, ...]:
    return lineage.grow(recipe)[0].versions


def width_of(version: lineage.Version) -> int:
    return int(next(lineage.load(version.uri).network.parameters()).shape[0])


def ids(forecast: Forecast) -> list[str | None]:
    """The versions that are found, by name and number; None for what would be trained."""
    return [one.version.id if one.version else None for one in forecast.generations]


def shown(renderable: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_each_generation_has_its_network_and_epochs(grown: tuple[lineage.Version, ...]) -> None:
    assert [width_of(version) for version in grown] == [8, 6, 4]
    epochs = [MlflowClient().get_run(version.run_id).data.tags["lineage.epochs"] for version in grown]
    assert epochs == ["2", "2", "3"]


def test_key_is_that_of_the_network_wherever_the_recipe_names_it(
    recipe: str, grown: tuple[lineage.Version, ...]
) -> None:
    plain = lineage.forecast(
        recipe,
        teacher=grown[0].uri,
        overrides={
            "network.width": 6,
            "student.network": {"name": "resnet8", "width": 6},
            "succession.student": [],
        },
    )
    assert ids(plain) == [grown[1].id]
    (again,) = lineage.grow(recipe)
    assert again.num_trained == 0
    shorter = lineage.forecast(recipe, generations=1, overrides={"succession.student": []})
    assert ids(shorter) == [version.id for version in grown[:2]]
    changed = lineage.forecast(recipe, overrides={"student.network.width": 5})
    assert ids(changed) == [grown[0].id, None, None]


def test_dry_run_show_tree_and_diff_tell_the_networks(
    recipe: str, grown: tuple[lineage.Version, ...]
) -> None:
    names = ["resnet8 (width=8)", "resnet8 (width=6)", "resnet8 (width=4)"]
    found = lineage.forecast(recipe, seeds=[1])
    assert [one.network for one in found.generations] == list(found.networks) == names
    assert [one.seconds for one in found.generations] == [one.metrics["seconds"] for one in grown]
    assert all(name in shown(forecast_table(found)) for name in names)
    assert [version.network for version in grown] == ["", *names[1:]]
    assert [names[1] in shown(version_table(version, {})) for version in grown] == [False, True, False]
    lines = shown(rich_tree(lineage.tree("chain"))).splitlines()
    assert [name in line for name in names[1:] for line in lines[1:]] == [
        False, True, False, False, False, True,
    ]  # fmt: skip
    changes = lineage.diff(grown[1].uri, grown[2].uri).recipe
    assert changes["network.width"] == (6, 4)
    assert changes["training.epochs"] == (2, 3)


def test_family_goes_on_from_its_stored_recipe(grown: tuple[lineage.Version, ...]) -> None:
    stored = Recipe.from_json(lineage.load(grown[2].uri).recipe)
    assert stored == load_recipe("chain.toml")
    assert flatten(stored)["succession.student"] == [
        {"generation": 2, "network": {"name": "resnet8", "width": 4, "options": {}}, "label_weight": 0.5,
         "epochs": 3},
    ]  # fmt: skip
    (expected,) = lineage.forecast(teacher=grown[2].uri).generations
    assert (expected.generation, expected.network) == (3, "resnet8 (width=6)")
    (sibling,) = lineage.forecast(teacher=grown[1].uri).generations
    assert sibling.version is not None
    assert sibling.version.id == grown[2].id


def test_chain_that_was_interrupted_ends_with_the_same_bits(
    recipe: str, grown: tuple[lineage.Version, ...]
) -> None:
    def stop_in_the_last_generation(trainer: Engine, generation: int) -> None:
        def stop(engine: Engine) -> None:
            if (generation, engine.state.epoch) == (2, 2):
                raise KeyboardInterrupt

        trainer.add_event_handler(Events.EPOCH_STARTED, stop)

    chain = load_recipe(recipe, ["model.name=stopped"])
    data = read_split_data(chain)
    with pytest.raises(KeyboardInterrupt):
        Succession(chain, data, SilentReporter(), observe=stop_in_the_last_generation).run()
    resumed = Succession(chain, data, SilentReporter()).run()
    assert resumed.num_trained == 1
    assert [version.weights_sha256 for version in resumed.versions] == [
        version.weights_sha256 for version in grown
    ]


def test_stored_soft_targets_of_a_large_teacher_train_a_small_student_like_the_live_ones(
    recipe: str, grown: tuple[lineage.Version, ...]
) -> None:
    (line,) = lineage.grow(recipe, overrides={"student.soft_targets": "stored"})
    assert line.num_trained == 2
    assert [width_of(version) for version in line.versions] == [8, 6, 4]
    for stored, live in zip(line.versions, grown, strict=True):
        difference = stored.metrics["validation_cross_entropy"] - live.metrics["validation_cross_entropy"]
        assert abs(difference) < 1e-2


def test_network_of_a_late_student_is_checked_before_anything_is_trained(recipe: str) -> None:
    split_data = read_split_data(load_recipe(recipe))
    for settings, sentence in (
        ("{generation = 2, network = {name = 'resnet8', options = {depth = 3}}}", "depth"),
        ("{generation = 2, network = {name = 'other:net'}}", "Unknown network 'other:net'"),
    ):
        late = load_recipe(recipe, [f"succession.student=[{settings}]"])
        with pytest.raises(RecipeError, match=sentence):
            check_against_data(late, split_data)


def test_generation_that_is_not_grown_is_refused(recipe: str, grown: tuple[lineage.Version, ...]) -> None:
    with pytest.raises(RecipeError, match="must name generations from 1 to 1, the last one that is grown"):
        lineage.forecast(recipe, generations=1)
    with pytest.raises(RecipeError, match="from 1 to 1, the last one that is grown, but has 2; leave it out"):
        lineage.forecast(recipe, teacher=grown[0].uri)


@pytest.mark.usefixtures("home")
def test_network_of_timm_teaches_one_of_ours() -> None:
    pytest.importorskip("timm", reason="timm is an extra: pip install 'lineage[timm]'")
    settings = ["network.name=timm:resnet18", "student.network={name = 'resnet8', width = 6}"]
    settings += ["data.train_samples=200", "training.epochs=1", "training.warmup_epochs=0"]

    (found,) = lineage.grow("digits", generations=1, overrides=settings)

    teacher, student = (lineage.load(version.uri).network for version in found.versions)
    assert type(teacher.model).__module__.startswith("timm.")
    assert width_of(found.versions[1]) == 6
    assert sum(each.numel() for each in student.parameters()) < 20_000
    measured = lineage.evaluate(found.versions[1].uri)
    assert measured.metrics == measured.recorded
