import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lineage
from lineage.errors import RecipeError
from lineage.extensions import named_settings, resolve, typed_options
from lineage.growing.plan import GenerationPlan, read_split_data
from lineage.recipe import check_space, load_recipe, with_space

CODE = '''
import torch
from sklearn.datasets import load_digits
from torch import nn

from lineage.data.datasets import MemoryImages
from lineage.data.images import memory_dataset


class MyNetwork(nn.Module):
    def __init__(self, num_classes, input_shape, width):
        super().__init__()
        channels, height, pixels = input_shape
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * pixels, width), nn.ReLU())
        self.classifier = nn.Linear(width, num_classes)

    def features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.classifier(self.features(x))


def my_network(num_classes, input_shape, width=8):
    return MyNetwork(num_classes, input_shape, width)


def my_data(folder, fetches, size, classes: int = 2):
    """Zeros and ones of scikit-learn's digits, and more of them."""
    digits = load_digits(n_class=classes)
    pixels = torch.from_numpy(digits.images * 15).to(torch.uint8).unsqueeze(-1)
    images = MemoryImages(pixels, torch.from_numpy(digits.target).long())
    return memory_dataset("mine", images, images, ["zero", "one", "two"][:classes])


def my_objective(smoothing, factor: float = 1.0, power=1):
    if factor < 0:
        raise ValueError("factor is negative")
    return lambda logits, labels: factor * nn.functional.cross_entropy(
        logits, labels, label_smoothing=smoothing
    ).pow(power)


def my_loss(temperature, gather, margin: float = 0.5, power=2):
    def loss(logits, teacher_logits, labels):
        gaps = gather(logits - teacher_logits).abs() / temperature - margin
        return gaps.relu().pow(power).mean()

    return loss


def my_schedule(epochs, floor: float = 0.0):
    return lambda epoch: max(floor, 1 - epoch / epochs)
'''
ENTRY_POINTS = """
[lineage.networks]
my_network = mypkg:my_network
torn = mypkg.torn:network
unwritten = mypkg:unwritten

[lineage.datasets]
my_data = mypkg:my_data

[lineage.objectives]
my_objective = mypkg:my_objective

[lineage.distillations]
my_loss = mypkg:my_loss

[lineage.schedules]
my_schedule = mypkg:my_schedule
"""
RECIPE = """
[model]
name = "mine"
[data]
name = "mypkg:my_data"
[network]
name = "mypkg:my_network"
width = 5
[patriarch]
objective = "mypkg:my_objective"
top_k = 2
[student]
label_weight = 0.5
loss = "mypkg:my_loss"
options.margin = 1
[training]
epochs = 2
batch_size = 32
schedule = "mypkg:my_schedule"
[succession]
generations = 1
"""


@pytest.fixture
def mypkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package, as pip leaves one: a module, and a dist-info that names its entry points."""
    site = tmp_path / "site-packages"
    metadata = site / "mypkg-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "mypkg.py").write_text(CODE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("mypkg", None)


@pytest.mark.usefixtures("mypkg")
def test_family_grows_of_an_installed_packages_parts_alone(home: Path) -> None:
    recipe = home / "mine.toml"
    recipe.write_text(RECIPE)
    (grown,) = lineage.grow(str(recipe))
    assert grown.num_trained == 2
    assert grown.versions[0].objective == "mypkg:my_objective"
    assert set(grown.versions[1].code) == {"distillation", "network", "schedule"}
    recipe.write_text(RECIPE.replace("options.margin = 1", "options.margin = 1.0\noptions.power = 2"))
    assert lineage.grow(str(recipe))[0].num_trained == 0  # the same options, as the signature types them
    model = lineage.load("models:/mine/1")
    assert type(model.network).__name__ == "MyNetwork"
    assert model.class_names == ("zero", "one")
    assert model.logits(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    assert model.network.get_parameter("classifier.weight").shape == (2, 5)
    evaluation = lineage.evaluate("models:/mine/1")
    assert evaluation.metrics == evaluation.recorded


@pytest.mark.usefixtures("mypkg")
def test_options_of_objective_and_schedule_are_in_the_key_unless_at_their_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE)
    data = read_split_data(load_recipe(str(file)))

    def keys(*options: str) -> list[str]:
        recipe = load_recipe(str(file), options)
        return [GenerationPlan(recipe, data, number, "a" if number else None).key for number in (0, 1)]

    objective, schedule = "patriarch.options.factor", "training.schedule_options.floor"
    assert keys(f"{objective}=1", f"{schedule}=0") == keys()
    assert [one != other for one, other in zip(keys(f"{objective}=2"), keys(), strict=True)] == [True, False]
    assert [one != other for one, other in zip(keys(f"{schedule}=0.5"), keys(), strict=True)] == [True, True]
    assert load_recipe(str(file), [f"{objective}=1"]).digest != load_recipe(str(file)).digest

    plan = GenerationPlan(load_recipe(str(file), [f"{objective}=3", f"{schedule}=0.5"]), data, 0, None)
    plain = GenerationPlan(load_recipe(str(file)), data, 0, None)
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    assert plan._loss()(logits, labels, logits, 1.0) == 3 * plain._loss()(logits, labels, logits, 1.0)
    assert [plan._schedule()(epoch) for epoch in (0.5, 1, 2)] == [0.75, 0.5, 0.5]


@pytest.mark.usefixtures("mypkg")
def test_options_of_a_data_set_reach_its_builder_and_its_contents_are_in_the_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE)
    keys = []
    for classes in (2, 3):
        recipe = load_recipe(str(file), [f"data.options.classes={classes}"])
        data = read_split_data(recipe)
        assert data.dataset.spec.num_classes == classes
        keys.append(GenerationPlan(recipe, data, 0, None).key)
    plain = load_recipe(str(file))
    assert GenerationPlan(plain, read_split_data(plain), 0, None).key == keys[0] != keys[1]


@pytest.mark.usefixtures("mypkg")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "patriarch.options.power=fast",
            "patriarch.options.power must be an integer, but got 'fast'.",
        ),
        (
            "patriarch.options.smoothing=1",
            "The objective 'mypkg:my_objective' takes the options factor, power, but patriarch.options has"
            " 'smoothing'.",
        ),
        (
            "patriarch.options.factor=-1",
            "patriarch.objective 'mypkg:my_objective' must be built from its settings, {'smoothing': 0.1,"
            " 'factor': -1.0, 'power': 1}, but its builder fails: factor is negative; correct [patriarch].",
        ),
        (
            "training.schedule_options.flor=0.1",
            "The schedule 'mypkg:my_schedule' takes the options floor, but training.schedule_options has"
            " 'flor'. Did you mean 'floor'?",
        ),
        (
            "training.schedule_options.floor=low",
            "training.schedule_options.floor must be a number, but got 'low'.",
        ),
        ("data.options.classes=two", "data.options.classes must be an integer, but got 'two'."),
        (
            "data.options.root=there",
            "The data set 'mypkg:my_data' takes the options classes, but data.options has 'root'.",
        ),
        (
            "data={name = 'digits', options = {classes = 2}}",
            "The data set 'digits' takes no options, but data.options has 'classes'.",
        ),
        (
            "data={name = 'hub:owner/name', options = {classes = 2}}",
            "The data set 'hub:owner/name' takes no options, but data.options has 'classes'.",
        ),
        (
            "patriarch={objective = 'strict', options = {factor = 1}}",
            "The objective 'strict' takes no options, but patriarch.options has 'factor'.",
        ),
    ],
)
def test_option_that_no_signature_has_is_refused(option: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE)
    with pytest.raises(RecipeError) as caught:
        read_split_data(load_recipe(str(file), [option]))
    assert str(caught.value) == message


@pytest.mark.usefixtures("mypkg")
def test_options_vary_in_a_study_but_those_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE)
    recipe = load_recipe(str(file))
    space = ["patriarch.options.power=1..3", "training.schedule_options.floor=0:0.5"]
    low, high, *_ = check_space(with_space(recipe, space[:1]))
    assert (low.patriarch.options, high.patriarch.options) == ({"power": 1}, {"power": 3})
    assert list(with_space(recipe, space).study.space) == [axis.partition("=")[0] for axis in space]
    with pytest.raises(RecipeError, match=r"data\.options must not vary within a study, since trials share"):
        with_space(recipe, ["data.options.classes=2,3"])


@pytest.mark.usefixtures("mypkg", "home")
def test_installed_network_and_data_set_grow_from_a_shipped_recipe() -> None:
    overrides = ("network.name=mypkg:my_network", "data.name=mypkg:my_data", "patriarch.top_k=2")
    (grown,) = lineage.grow("digits", generations=0, overrides=(*overrides, "training.epochs=1"))
    assert grown.versions[0].metrics["test_accuracy"] > 0.5


@pytest.mark.usefixtures("mypkg")
def test_shipped_builder_is_found_without_packages() -> None:
    assert resolve("network", "len", {"len": len}) is len


@pytest.mark.usefixtures("mypkg")
@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "network",
            "mypkg:my_networks",
            "Unknown network 'mypkg:my_networks'; known are len, mypkg:my_network, mypkg:torn,"
            " mypkg:unwritten. Did you mean 'mypkg:my_network'?",
        ),
        ("dataset", "mypkg:nothing", "Unknown dataset 'mypkg:nothing'; known are len, mypkg:my_data."),
        (
            "schedule",
            "other:line",
            "Unknown schedule 'other:line'; known are len, mypkg:my_schedule.",
        ),
        (
            "network",
            "mypkg:torn",
            "The network 'mypkg:torn' must be importable from 'mypkg.torn:network', but is not: No module"
            " named 'mypkg.torn'; 'mypkg' is not a package; repair its package.",
        ),
        (
            "network",
            "mypkg:unwritten",
            "The network 'mypkg:unwritten' must be importable from 'mypkg:unwritten', but is not: module"
            " 'mypkg' has no attribute 'unwritten'; repair its package.",
        ),
    ],
)
def test_builder_that_cannot_be_found_is_refused(kind: str, name: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(kind, name, {"len": len})
    assert str(caught.value) == message


@pytest.mark.usefixtures("mypkg", "home")
def test_grow_with_what_no_package_offers_is_refused() -> None:
    with pytest.raises(RecipeError, match="Unknown network 'mypkg:nothing'"):
        lineage.grow("digits", overrides=("network.name=mypkg:nothing",))


def build(given: int, rate: float, size=3, *, name: str | None = None, **_: object) -> None:  # noqa: ANN001
    """Takes options with types, without, and any others."""
    del given, rate, size, name


def test_options_get_the_types_and_defaults_of_a_signature() -> None:
    found = typed_options("X", "a.options", build, {"rate": 1, "other": "y"}, ["given"])
    assert found == {"rate": 1.0, "size": 3, "name": None, "other": "y"}
    assert type(found["rate"]) is float


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "X needs rate; set a.options.rate."),
        ({"rate": "fast"}, "a.options.rate must be a number, but got 'fast'."),
        ({"rate": 1, "size": 2.5}, "a.options.size must be an integer, but got 2.5."),
        ({"rate": 1, "name": 3}, "a.options.name must be a text, but got 3."),
    ],
)
def test_option_of_another_type_than_in_the_signature_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        typed_options("X", "a.options", build, options, ["given"])
    assert str(caught.value) == message


def test_named_settings_are_those_that_the_signature_names() -> None:
    def build(epochs: int, gamma: float = 0.1) -> None:
        del epochs, gamma

    assert named_settings(build, {"epochs": 3, "milestones": [1]}) == {"epochs": 3}
