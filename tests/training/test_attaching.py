import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lineage
from lineage.errors import RecipeError, TrainingError, UsageError
from lineage.growing.plan import GenerationPlan, read_split_data
from lineage.recipe import load_recipe
from lineage.training.attaching import build_handler, numbers

CODE = """
def louder(by: float = 2.0):
    return lambda engine, part, generation: None


def watching():
    return lambda engine, part, generation: None


watching.alters_training = False


def none():
    pass
"""


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of an installed package of handlers."""
    site = tmp_path / "site-of-handlers"
    metadata = site / "hands-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "hands.py").write_text(CODE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hands\nVersion: 1.0\n")
    names = ("louder", "watching", "none")
    points = "".join(f"{name} = hands:{name}\n" for name in names)
    (metadata / "entry_points.txt").write_text(f"[lineage.handlers]\n{points}")
    monkeypatch.syspath_prepend(site)
    yield site / "hands.py"
    sys.modules.pop("hands", None)


def key(handler: str = "") -> str:
    settings = [f"training.handlers=[{handler}]"] if handler else []
    recipe = load_recipe("digits", settings)
    return GenerationPlan(recipe, read_split_data(recipe), 0, None).key


def test_key_holds_handlers_that_may_alter_the_training(handlers: Path) -> None:
    plain, louder = key(), key("{name = 'hands:louder'}")
    assert key("{name = 'hands:watching'}") == plain != louder
    assert key("{name = 'hands:louder', options = {by = 2}}") == louder
    assert key("{name = 'hands:louder', options = {by = 3}}") not in {plain, louder}
    handlers.write_text(CODE + "\n# changed\n")
    sys.modules.pop("hands")
    assert key("{name = 'hands:louder'}") not in {plain, louder}


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hands:quiet", {}, "Unknown handler 'hands:quiet'; known are hands:louder, hands:watching"),
        ("hands:louder", {"to": 1}, "The handler 'hands:louder' takes the options by, but"),
        ("hands:none", {}, "The handler 'hands:none' must be a function of an engine, a part and a"),
    ],
)
def test_handler_that_cannot_be_built_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_handler(name, options)
    assert str(caught.value).startswith(message)


def test_metric_that_is_no_number_is_refused() -> None:
    assert numbers({"a": torch.tensor(0.5), "b": 2}) == {"a": 0.5, "b": 2.0}
    with pytest.raises(TrainingError, match=r"metric 'c' that a handler gives must be one number, but is"):
        numbers({"c": torch.zeros(2)})


def test_attaching_to_seeds_in_processes_of_their_own_is_refused() -> None:
    with pytest.raises(UsageError, match=r"attach must be left out where seeds grow in processes"):
        lineage.grow("digits", seeds=[0, 1], parallel=2, attach=lambda _engine, _part, _generation: None)
