"""Whatever stands in a recipe, it is read or refused in one short message, within bounded time and memory."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from typer.testing import CliRunner

from lineage.cli.recipes import app
from lineage.errors import LineageError, NotFoundError, RecipeError, UsageError
from lineage.growing.grow import grow
from lineage.models.limits import outlining
from lineage.models.networks import NETWORKS, build_network, check_network
from lineage.recipe import Recipe, find_recipe, load_recipe, parse_settings, recipe_path, with_space

DIGITS = recipe_path("digits").read_text(encoding="utf-8")


def _many_keys(num_bytes: int) -> str:
    line = "key_{:09} = 1\n"
    return "[training]\n" + "".join(line.format(number) for number in range(num_bytes // 18))


TEXTS = {
    "ten to the power of 400": "[training]\nepochs = 1" + "0" * 400,
    "an integer of 5,000 digits": "[training]\nepochs = 1" + "0" * 5_000,
    "an integer of 5,000 hexadecimal digits": "[training]\nepochs = 0x1" + "0" * 5_000,
    "a float of 5,000 digits": "[training]\nlr = 1" + "0" * 5_000 + ".0",
    "5,000 nested lists": "[training]\nmilestones = " + "[" * 5_000 + "]" * 5_000,
    "200 nested tables": "[training]\nmilestones = " + "{a = " * 200 + "1" + "}" * 200,
    "a key of 1,000 parts": ".".join(["training"] * 1_000) + " = 1",
    "a key of 30,000 parts": ".".join(["a"] * 30_000) + " = 1",
    "ten megabytes of keys": _many_keys(10_000_000),
    "as many keys as are read": _many_keys(60_000),
    "a long text": "[data]\nname = '" + "x" * 50_000 + "'",
    "a long key": "[data]\n" + "x" * 50_000 + " = 1",
    "a long section": "[" + "x" * 50_000 + "]",
    "keys with escapes": '[data]\n"\\u001b[31m" = 1',
    "a long list of wrong values": "[training]\nmilestones = [" + "'x', " * 4_000 + "]",
    "a date": "[training]\nepochs = 2026-01-01",
    "long options": "[network]\nname = 'resnet8'\noptions = {a = ['" + "x" * 900 + "']}",
    "a long axis": "[study.space]\n'" + "x" * 900 + "' = ['" + "y" * 900 + "']",
    "a wide range": "[study.space]\nlr = {low = 0.0, high = 1e300, step = 1e-300}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_file_with_hostile_values_is_refused_in_a_short_message(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert all(len(problem) < 2_000 for problem in caught.value.problems)
    assert all(problem.isprintable() for problem in caught.value.problems)
    outcome = CliRunner().invoke(app, ["validate", str(path)])
    assert isinstance(outcome.exception, RecipeError)
    assert len(str(outcome.exception)) < 2_000


@pytest.mark.parametrize("text", [text for text in TEXTS.values() if len(text) < 60_000])
def test_stored_recipe_with_hostile_values_is_refused_in_a_short_message(text: str) -> None:
    try:
        stored = json.dumps(tomllib.loads(text), default=str)
    except (ValueError, RecursionError):
        stored = "[" * 100_000
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(stored)
    assert all(len(problem) < 2_000 for problem in caught.value.problems)


@pytest.mark.parametrize(
    "text", ["1" + "0" * 5_000, "[" * 5_000 + "]" * 5_000, '{"training": 1' + "0" * 5_000 + "}", "[1]", "nul"]
)
def test_stored_text_that_no_recipe_can_be_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="must be") as caught:
        Recipe.from_json(text)
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs=1" + "0" * 5_000,
        "training.epochs=1" + "0" * 400,
        "training.milestones=" + "[" * 5_000 + "]" * 5_000,
        "a." * 5_000 + "a=1",
        "data.name=" + "x" * 100_000,
        "x" * 100_000,
        "data.root=" + "a." * 5_000,
    ],
    ids=lambda override: override[:30],
)
def test_override_with_hostile_values_is_refused_in_a_short_message(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", [override])
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    "word",
    [
        "strictness=" + "0.5," * 20_000,
        "temperature=1" + "0" * 5_000 + ":2",
        "x" * 5_000 + "=1",
        "top_k=2..1" + "0" * 400,
    ],
    ids=lambda word: word[:30],
)
def test_space_with_hostile_values_is_refused_in_a_short_message(word: str) -> None:
    with pytest.raises(LineageError) as caught:
        with_space(load_recipe("digits"), [word])
    assert len(str(caught.value)) < 2_000


def test_space_may_be_longer_than_a_file_name() -> None:
    choices = ",".join(f"0.{number}" for number in range(100, 200))
    assert len(with_space(load_recipe("digits"), [f"strictness={choices}"]).study.space) == 1


@pytest.mark.parametrize("name", ["x" * 5_000, "x/" * 50_000, "a\0b", "./a\0b"])
def test_name_that_no_file_can_have_is_not_found(name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        find_recipe(name)
    assert len(str(caught.value)) < 2_000


def test_values_of_python_callers_are_limited_likewise() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecipeError, match="at most 8 deep"):
        parse_settings(Recipe, {"training": {"milestones": deep}})


def test_validate_lists_all_problems(tmp_path: Path) -> None:
    path = tmp_path / "many.toml"
    path.write_text(f"{DIGITS}\n[study.space]\nlrr = [1]\nstrictness = [[1]]\n")
    overrides = ["data.seed=-1", "network.name=none", "data.sede=1", "training.nesterov=true"]
    overrides += ["training.momentum=0", "training.schedule=step"]
    settings = [word for override in overrides for word in ("--set", override)]
    outcome = CliRunner().invoke(app, ["validate", str(path), *settings])
    assert isinstance(outcome.exception, RecipeError)
    lines = str(outcome.exception).splitlines()
    assert lines[0] == f"{path} must be a valid recipe, but is not:"
    expected = ["data.sede", "data.seed", "network.name", "nesterov", "milestones", "'lrr'", "strictness"]
    assert len(lines) == 1 + len(expected)
    for part in expected:
        assert sum(part in line.partition(" Did you")[0] for line in lines[1:]) == 1, part
    printed = json.loads(CliRunner().invoke(app, ["validate", str(path), *settings, "--json"]).stdout)
    assert printed["problems"] == [line.strip() for line in lines[1:]]


UNBUILDABLE = [
    "network.options.width=9223372036854775807",
    "network.options.width=30000000",
    "network.options.width=-1",
    "network.options.width=1.5",
    "network.name=none:none",
    "network.name=torchvision:none",
    "network.options.none=1",
    "network.options.width=x",
    "network.width=65536",
    "network.name=torchvision:resnet18",
    "training.schedule=none:none",
    "patriarch.top_k=11",
    "data.name=none:none",
    "data.crop_padding=9",
    "data.train_samples=9223372036854775807",
    "training.accumulation=3",
]


@pytest.mark.parametrize("override", UNBUILDABLE)
def test_recipe_that_cannot_be_built_creates_nothing(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(UsageError) as caught:
        grow("digits", overrides=[override])
    assert len(str(caught.value)) < 2_000
    assert not list(tmp_path.iterdir())


def test_network_that_no_machine_can_hold_is_refused_before_it_is_built() -> None:
    with pytest.raises(RecipeError, match="at most 2,000,000,000 parameters"):
        build_network("torchvision:vit_b_16", 10, (3, 224, 224), {"representation_size": 10_000_000})
    with pytest.raises(RecipeError, match="at most 20,000 modules"), outlining("deep"):
        nn.Sequential(*(nn.Identity() for _ in range(30_000)))


class _Flat(nn.Module):
    """A network of a package, for images of 8x8 alone, that gives 10 logits whatever it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def features(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(pixels))
        return logits


def test_network_that_takes_no_such_images_is_refused_before_a_run_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(NETWORKS, "flat", lambda _classes, _shape: _Flat())
    check_network("flat", 10, (1, 8, 8))
    with pytest.raises(RecipeError, match=r"must take images of 3x8x8, but fails for one: .*192"):
        check_network("flat", 10, (3, 8, 8))
    with pytest.raises(RecipeError, match=r"must give 11 logits .* but gives the shape \(10,\)"):
        check_network("flat", 11, (1, 8, 8))
