from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import save_file

from lineage.display.progress import SilentReporter
from lineage.errors import IntegrityError, LineageError, NotFoundError, UsageError
from lineage.evaluation.audit_images import choose_images
from lineage.evaluation.data import read_split
from lineage.evaluation.ensemble import ensemble
from lineage.exchange.adopt import Candidate, adopt
from lineage.growing.audit import audit
from lineage.growing.grow import grow
from lineage.growing.shadows import ImitatedGeneration, plan_shadows
from lineage.growing.succession import Lineage
from lineage.models.networks import build_network
from lineage.recipe import Recipe, load_recipe
from lineage.registry.care.remove import remove
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version

RATES = {"auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}


class Notices(SilentReporter):
    """Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.trained: list[Version] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)

    def completed(self, version: Version) -> None:
        self.trained.append(version)


@pytest.fixture(scope="module")
def grown(module_home: Path, tiny_settings: tuple[str, ...]) -> Lineage:
    """A tiny patriarch and two students."""
    (line,) = grow("digits", generations=2, overrides=tiny_settings)
    return line


def test_every_generation_is_attacked_and_its_rates_are_kept(grown: Lineage) -> None:
    results = audit("models:/digits/3")
    assert [result.version.id for result in results] == ["digits/1", "digits/2", "digits/3"]
    for result in results:
        assert result.rates.keys() == {"threshold"}
        assert result.rates["threshold"].keys() == RATES
        assert (result.num_members, result.num_others, result.num_shadows) == (400, 400, 0)
        metrics = {f"audit_threshold_{name}": rate for name, rate in result.rates["threshold"].items()}
        assert metrics.items() <= find_version(result.version.uri).metrics.items()
        run = MlflowClient().get_run(result.version.run_id)
        assert metrics.items() <= run.data.metrics.items()
        logged = MlflowClient().get_logged_model(result.version.model_id)
        assert set(metrics) <= {metric.key for metric in logged.metrics or ()}


def test_audit_again_gives_the_same(grown: Lineage) -> None:
    assert [result.rates for result in audit("models:/digits/2")] == [
        result.rates for result in audit("models:/digits/2")
    ]


def test_images_are_as_many_that_trained_as_that_nobody_used() -> None:
    data = load_recipe("digits", ["data.subset={seed = 3, half = 0}"]).data
    split_data = read_split(data)
    used = split_data.dataset.train.labels.new_tensor(range(0, 1437, 5))
    images = choose_images(split_data.dataset, split_data.train, [used])
    assert images.num_members == len(images.members) / 2
    assert set(images.train[images.members[: len(images.train)]].tolist()) <= set(split_data.train.tolist())
    others = set(images.train[~images.members[: len(images.train)]].tolist())
    assert others
    assert not others & {*split_data.train.tolist(), *used.tolist()}
    assert not images.members[len(images.train) :].any()
    assert np.array_equal(images.among(split_data.train), images.members)
    again = choose_images(split_data.dataset, split_data.train, [used])
    assert torch.equal(images.train, again.train)
    assert torch.equal(images.test, again.test)


def test_others_are_images_that_no_generation_of_the_line_used(
    grown: Lineage, tiny_settings: tuple[str, ...]
) -> None:
    halves = [[*tiny_settings, f"data.subset={{seed = 0, half = {half}}}"] for half in (0, 1)]
    (first,) = grow("digits", name="halves", generations=0, overrides=halves[0])
    (second,) = grow(teacher=first.versions[0].uri, overrides=halves[1])
    results = audit(second.versions[0].uri)
    assert [result.num_members for result in results] == [200, 200]
    (alone,) = audit(first.versions[0].uri)
    # Other images are taken where the student's may not be, so that the patriarch's rates change
    assert alone.rates != results[0].rates


def imitated(recipe: Recipe, student: Recipe | None = None) -> list[ImitatedGeneration]:
    recipes = [recipe] if student is None else [recipe, student]
    versions = (Version(name="digits", version=1, seed=0), Version(name="digits", version=2, seed=2))
    pairs = zip(versions, recipes, strict=False)
    return [ImitatedGeneration(version, one, read_split(one.data)) for version, one in pairs]


def test_shadows_are_pairs_of_halves_with_seeds_of_their_own() -> None:
    recipe = load_recipe("digits", ["data.subset={seed = 1, half = 0}"])
    shadows = plan_shadows(imitated(recipe, recipe), 6)
    assert [shadow[0].recipe.succession.seed for shadow in shadows] == [2**20 + number for number in range(6)]
    subsets = [shadow[0].recipe.data.subset for shadow in shadows]
    assert [(subset.seed, subset.half) for subset in subsets if subset] == [
        (seed, half) for seed in (0, 2, 3) for half in (0, 1)
    ]
    whole = read_split(load_recipe("digits").data).train
    for first, second in batched_pairs(shadows):
        rows = torch.cat([first[0].split_data.train, second[0].split_data.train])
        assert torch.equal(rows.sort().values, whole)
    for patriarch, student in shadows:
        assert patriarch.recipe.model.name == student.recipe.model.name == "digits-shadows"
        assert torch.equal(patriarch.split_data.train, student.split_data.train)
        changed = {"model", "data", "succession"}
        assert patriarch.recipe.model_dump(exclude=changed) == recipe.model_dump(exclude=changed)


def batched_pairs(shadows: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(shadows[::2], shadows[1::2], strict=True))


def test_shadow_of_a_student_on_other_images_has_those() -> None:
    halves = [load_recipe("digits", [f"data.subset={{seed = 0, half = {half}}}"]) for half in (0, 1)]
    for patriarch, student in plan_shadows(imitated(*halves), 4):
        assert student.recipe.data == halves[1].data
        assert patriarch.recipe.data.subset != halves[0].data.subset


def test_interrupted_shadows_are_grown_to_the_end_and_used_again(grown: Lineage) -> None:
    class Interrupting(Notices):
        def completed(self, version: Version) -> None:
            super().completed(version)
            if len(self.trained) == 3:
                raise KeyboardInterrupt

    first, second, third = Interrupting(), Notices(), Notices()
    with pytest.raises(KeyboardInterrupt):
        audit("models:/digits/1", shadows=4, reporter=first)
    (patriarch,) = audit("models:/digits/1", shadows=4, reporter=second)
    assert [version.id for version in (*first.trained, *second.trained)] == [
        f"digits-shadows/{number}" for number in (1, 2, 3, 4)
    ]
    assert patriarch.rates.keys() == {"threshold", "lira"}
    for rates in patriarch.rates.values():
        assert rates.keys() == {f"{side}{rate}" for side in ("", "low_", "high_") for rate in RATES}
    again, student, last = audit("models:/digits/3", shadows=4, reporter=third)
    assert again.rates == patriarch.rates
    assert [version.generation for version in third.trained] == [1, 1, 1, 1]
    assert student.rates["lira"] != last.rates["lira"]


@pytest.mark.parametrize("number", [-2, 2, 5])
def test_shadows_that_are_no_pairs_are_refused(grown: Lineage, number: int) -> None:
    with pytest.raises(UsageError, match=f"--shadows must be 0 or an even number .* but got {number}"):
        audit("models:/digits/1", shadows=number)


def test_setting_without_effect_is_refused(grown: Lineage) -> None:
    with pytest.raises(UsageError, match=r"--set must give a setting that an audit uses \(data.name"):
        audit("models:/digits/1", overrides=["data.seed=3"])


def test_version_whose_training_images_nobody_knows_is_refused(grown: Lineage) -> None:
    combined = ensemble(["models:/digits/1", "models:/digits/2"], name="combined").version
    assert combined is not None
    with pytest.raises(UsageError, match=r"must be a generation to be audited.* is an ensemble; name a memb"):
        audit(combined.uri)


def test_student_of_an_adopted_network_is_audited_for_its_own_images(
    grown: Lineage, tiny_settings: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "digits.safetensors"
    save_file(build_network("resnet8", 10, (1, 8, 8), {"width": 4}).state_dict(), file)
    candidate = Candidate(network="resnet8", weights=str(file))
    adopted = adopt("adopted", candidate, data="digits", overrides=["network.width=4"]).version
    with pytest.raises(UsageError, match=r"must be a generation to be audited.* was adopted; name another"):
        audit(adopted.uri)
    (line,) = grow("digits", teacher=adopted.uri, overrides=tiny_settings)
    told = Notices()
    (result,) = audit(line.versions[0].uri, shadows=4, reporter=told)
    assert [version.teacher for version in told.trained] == [adopted.id] * 4
    assert result.patriarch == result.version
    assert told.lines[0].startswith(f"{result.version.uri} is the oldest generation whose images are known")


def test_changed_images_are_refused(grown: Lineage, tiny_settings: tuple[str, ...], tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in range(2):
            for number in range(4):
                folder = tmp_path / "images" / part / f"class {label}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), 60 * number + label).save(folder / f"{number}.png")
    root = [f"data.root={tmp_path / 'images'}", "data.name=imagefolder", "data.image_size=8"]
    root.append("data.crop_padding=0")
    few = ["data.validation=0", "training.batch_size=4", "patriarch.top_k=2", "training.warmup_epochs=0"]
    (line,) = grow("digits", name="folder", generations=0, overrides=["training.epochs=1", *root, *few])
    uri = line.versions[0].uri
    (result,) = audit(uri)
    assert result.num_members == result.num_others == 8
    Image.new("L", (8, 8), 7).save(tmp_path / "images" / "train" / "class 0" / "9.png")
    with pytest.raises(IntegrityError, match="was grown on data with the digest"):
        audit(uri)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(LineageError, match="is read from a folder, but none is given"):
        audit(uri)


def test_shadows_of_a_student_whose_teacher_was_removed_are_refused(
    grown: Lineage, tiny_settings: tuple[str, ...]
) -> None:
    (line,) = grow("digits", name="orphan", generations=1, overrides=tiny_settings)
    remove(line.versions[0].uri, force=True)
    with pytest.raises(NotFoundError, match=r"orphan/1, must be there for shadows .* leave out --shadows"):
        audit(line.versions[1].uri, shadows=4)
    (result,) = audit(line.versions[1].uri)
    assert result.patriarch.id == "orphan/2"
