"""Policies with options: those of torchvision, and one of an installed package."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from lineage.data.augmentation import Augmentation, random_bits
from lineage.data.datasets import load_dataset
from lineage.data.views import view_of
from lineage.errors import RecipeError
from lineage.evaluation.data import SplitData, augmentation_of, split_dataset
from lineage.growing.cache_key import GenerationSettings
from lineage.recipe import load_recipe

CODE = """
import random

import torch


def build_dimmed(*, least: float = 0.5, channel: int = 0):
    def dim(image):  # uint8 (C, H, W)
        image = image.clone()
        image[channel] = (image[channel] * (least + (1 - least) * torch.rand(()))).to(torch.uint8)
        return image

    return dim


def build_rough():
    return lambda image: image.float()


def build_impure():
    return lambda image: image + random.randrange(100)
"""
ENTRY_POINTS = """
[lineage.augmentations]
dimmed = dimpkg:build_dimmed
rough = dimpkg:build_rough
impure = dimpkg:build_impure
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Function that installs a package of some code, as pip leaves one, in place of the one before."""
    site = tmp_path / "site-packages"
    metadata = site / "dimpkg-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dimpkg\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (metadata / "top_level.txt").write_text("dimpkg\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(code: str) -> None:
        (site / "dimpkg.py").write_text(code)
        sys.modules.pop("dimpkg", None)

    write(CODE)
    yield write
    sys.modules.pop("dimpkg", None)


def view(augmentation: Augmentation) -> Tensor:
    digits = load_dataset("digits")
    rows = torch.arange(12)
    return view_of(digits.train, digits.spec, rows, augmentation, 0).read(list(range(12, 24)))[0]


def settings(*overrides: str) -> GenerationSettings:
    recipe = load_recipe("digits", overrides)
    split_data: SplitData = split_dataset(load_dataset("digits"), recipe.data)
    return GenerationSettings(recipe, split_data, 0, None)


def test_options_of_a_policy_are_those_of_its_signature() -> None:
    shown = view(Augmentation(policy="rand", policy_options={"num_ops": 1, "magnitude": 20}))
    theirs, plain = v2.RandAugment(1, 20), view(Augmentation())
    for seed, image, ours in zip(
        random_bits(0, torch.tensor(1), torch.arange(12)).tolist(), plain, shown, strict=True
    ):
        torch.default_generator.manual_seed(seed)
        assert torch.equal(theirs(image.permute(2, 0, 1)), ours.permute(2, 0, 1))
    same = ["data.augment.policy=rand", "data.augment.options.magnitude=9"]
    assert settings(*same).key == settings(same[0]).key
    assert settings(same[0], "data.augment.options.magnitude=8").key != settings(same[0]).key


@pytest.mark.usefixtures("install")
def test_policy_of_a_package_changes_views_with_its_options_and_a_seed_for_each() -> None:
    data = load_recipe("digits", ["data.augment.policy=dimpkg:dimmed", "data.augment.options.least=0"]).data
    plain = view(augmentation_of(load_recipe("digits").data)).double()
    dimmed = view(augmentation_of(data)).double()
    shares = dimmed.sum((1, 2, 3)) / plain.sum((1, 2, 3))
    assert (dimmed <= plain).all()
    assert len(set(shares.tolist())) == 12
    assert shares.min() < 0.4
    assert torch.equal(view(augmentation_of(data)).double(), dimmed)


def test_code_of_a_policy_is_part_of_the_key_and_of_stored_soft_targets(
    install: Callable[[str], None],
) -> None:
    policy = "data.augment.policy=dimpkg:dimmed"
    before = settings(policy)
    assert before.sources["augmentation"].distribution == "dimpkg"
    digests = [(before.key, before.soft_targets_digest)]
    install(CODE.replace("torch.rand(())", "torch.rand(()) ** 2"))
    after = settings(policy)
    digests.append((after.key, after.soft_targets_digest))
    assert digests[0][0] != digests[1][0]
    assert digests[0][1] != digests[1][1]


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize(
    ("policy", "options", "text"),
    [
        (
            "rand",
            {"magnitude": 40},
            r"must turn a uint8 image \(1, 8, 8\) into .* but .* it fails:",
        ),
        ("rand", {"magnitud": 4}, r"takes the options num_ops, magnitude, but .* Did you mean 'magnitude'\?"),
        ("trivial", {"num_magnitude_bins": 1.5}, "num_magnitude_bins must be an integer, but got 1.5"),
        ("dimpkg:dimmed", {"channel": 3}, "it fails: index 3 is out of bounds"),
        ("dimpkg:rough", {}, r"with the options {} it returns float32 \(1, 8, 8\); correct"),
        ("dimpkg:impure", {}, "it gives two images for one seed of torch's generator"),
        ("dimpkg:dimed", {}, r"Unknown augmentation 'dimpkg:dimed'.* Did you mean 'dimpkg:dimmed'\?"),
    ],
)
def test_policy_that_does_not_work_is_refused_before_training(
    policy: str, options: dict[str, float], text: str
) -> None:
    with pytest.raises(RecipeError, match=text):
        view(Augmentation(policy=policy, policy_options=options))
