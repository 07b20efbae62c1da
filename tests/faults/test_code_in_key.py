"""The code of other packages is part of the key, and of what a version is compared by."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

import lineage
from lineage.data.images import DataSet, DataSpec, MemoryImages
from lineage.display.progress import SilentReporter
from lineage.errors import IntegrityError
from lineage.evaluation.data import SplitData
from lineage.evaluation.diff import diff
from lineage.extensions import REVISIONS, source_of
from lineage.growing.plan import GenerationPlan, read_split_data
from lineage.growing.succession import Succession
from lineage.recipe import load_recipe
from lineage.registry.store.study_runs import epoch_values

CODE = """
from torch import nn
from plugged.loss import build

class Net(nn.Module):
    def __init__(self, num_classes, input_shape):
        super().__init__()
        channels, height, width = input_shape
        self.classifier = nn.Linear(channels * height * width, num_classes)

    def features(self, images):
        return images.flatten(1)

    def forward(self, images):
        return self.classifier(self.features(images)) * 1.0
"""
LOSS = """
from torch.nn.functional import cross_entropy

def build(smoothing):
    return lambda logits, labels: cross_entropy(logits, labels, label_smoothing=smoothing)
"""
ENTRY_POINTS = """
[lineage.networks]
net = plugged:Net
[lineage.objectives]
loss = plugged.loss:build
"""
SETTINGS = ("network.name=plugged:net", "patriarch.objective=plugged:loss")
ONE_EPOCH = ("training.epochs=1", "data.train_samples=400", "training.warmup_epochs=0")


class Package:
    """An installed package ``plugged`` whose files are edited, as between two sessions."""

    def __init__(self, site: Path) -> None:
        self.site = site
        (site / "plugged").mkdir(parents=True)
        (site / "plugged/__init__.py").write_text(CODE)
        (site / "plugged/loss.py").write_text(LOSS)
        self.set_version("1.0")
        (site / "plugged-1.0.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
        (site / "plugged-1.0.dist-info/top_level.txt").write_text("plugged\n")

    def set_version(self, version: str) -> None:
        metadata = self.site / "plugged-1.0.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugged\nVersion: {version}\n")
        self.forget()

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.site / "plugged" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new) + "# edited\n")  # another size: bytecode is not taken for it
        self.forget()

    def forget(self) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "plugged"]:
            del sys.modules[name]
        importlib.invalidate_caches()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = Package(tmp_path / "site")
    yield found
    found.forget()


def key_of(*overrides: str, teacher: str | None = None, attached: str | None = None) -> str:
    spec = DataSpec("made", ("a", "b"), None, (0.5,), (0.5,), (1, 8, 8), "d" * 64)
    images = MemoryImages(torch.zeros(2, 8, 8, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    data = SplitData(DataSet(images, images, spec), torch.arange(2), torch.arange(0))
    return GenerationPlan(load_recipe("digits", overrides), data, int(bool(teacher)), teacher, attached).key


@pytest.mark.parametrize("file", ["__init__.py", "loss.py"])
def test_changed_source_changes_the_key_and_a_new_version_alone_does_not(package: Package, file: str) -> None:
    first = key_of(*SETTINGS)
    package.set_version("1.1")
    assert key_of(*SETTINGS) == first
    package.edit(file, "from", "from")
    assert key_of(*SETTINGS) != first


def test_file_edited_after_loading_leaves_the_key_of_the_code_that_runs(package: Package) -> None:
    first = source_of("network", "plugged:net")
    (package.site / "plugged/loss.py").write_text("raise SystemExit")
    assert source_of("network", "plugged:net") == first


def test_code_that_a_generation_does_not_use_is_not_in_its_key(package: Package) -> None:
    ours = key_of(), key_of(SETTINGS[1], teacher="t")
    package.edit("loss.py", "from", "from")
    assert (key_of(), key_of(SETTINGS[1], teacher="t")) == ours


def test_revision_of_our_own_builder_enters_the_key_unless_it_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    first = key_of("network.name=resnet8")
    monkeypatch.setitem(REVISIONS, ("network", "resnet8"), 0)
    assert key_of("network.name=resnet8") == first
    monkeypatch.setitem(REVISIONS, ("network", "resnet8"), 1)
    assert key_of("network.name=resnet8") != first


def test_changed_network_is_grown_anew_told_by_evaluate_and_shown_by_diff(
    home: Path, package: Package
) -> None:
    overrides = [*SETTINGS, *ONE_EPOCH]
    (first,) = lineage.grow("digits", overrides=overrides, generations=0)
    (again,) = lineage.grow("digits", overrides=overrides, generations=0)
    assert (first.num_trained, again.num_trained) == (1, 0)
    found = lineage.evaluate("models:/digits/1")
    assert found.metrics == found.recorded
    assert {kind: code["version"] for kind, code in found.version.code.items()} == {
        "network": "1.0",
        "objective": "1.0",
    }

    package.edit("__init__.py", "* 1.0", "* -1.0")
    with pytest.raises(
        IntegrityError, match=r"test_accuracy \S+ in place of .*'plugged:net' has changed"
    ) as caught:
        lineage.evaluate("models:/digits/1")
    assert caught.value.exit_code == 4
    (changed,) = lineage.grow("digits", overrides=overrides, generations=0)
    assert (changed.num_trained, changed.versions[0].version) == (1, 2)
    pairs = diff("models:/digits/1", "models:/digits/2").code
    assert pairs.keys() == {"network", "objective"}
    assert all(old != new for old, new in pairs.values())


def test_what_python_code_attaches_is_never_pulled_by_key(home: Path, tiny_settings: tuple[str, ...]) -> None:
    recipe = load_recipe("digits", [*tiny_settings, "succession.generations=0"])
    data = read_split_data(recipe)
    seen: list[tuple[str, int]] = []

    def attach(engine: Engine, part: str, generation: int) -> None:
        seen.append((part, generation))
        found = {"seen": 0.5} if part == "training" else {"half": torch.tensor(0.25)}
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(found))

    def observe(_trainer: Engine, _generation: int) -> None:
        """Change nothing, as promised."""

    def grow(**options: object) -> lineage.Lineage:
        return Succession(recipe, data, SilentReporter(), **options).run()  # type: ignore[arg-type]

    settings = {"generations": 0, "overrides": tiny_settings, "attach": attach}
    grown = [lineage.grow("digits", **settings)[0], grow(attach=attach), grow(), grow(observe=observe)]
    assert [line.num_trained for line in grown] == [1, 1, 1, 0]
    assert len({line.versions[0].key for line in grown}) == 3
    epochs = recipe.training.epochs
    assert seen == [("training", 0), *[("validation", 0)] * epochs] * 2
    version = grown[0].versions[0]
    assert version.metrics["validation_half"] == 0.25
    assert "validation_half" not in grown[2].versions[0].metrics
    assert epoch_values(version, "seen") == dict.fromkeys(range(1, epochs + 1), 0.5)
    assert epoch_values(version, "validation_half") == dict.fromkeys(range(1, epochs + 1), 0.25)
