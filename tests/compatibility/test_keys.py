"""Keys and digests that stand in registries stay what they were when their versions were made."""

import json
from pathlib import Path

import pytest
import torch

from lineage.data.images import DataSet, DataSpec, MemoryImages
from lineage.evaluation.data import SplitData
from lineage.growing.plan import GenerationPlan
from lineage.recipe import load_recipe, recipe_names

RECORDED = json.loads((Path(__file__).parent / "keys.json").read_text())


@pytest.fixture(scope="module")
def split_data() -> SplitData:
    """Made-up data of 1,000 classes, so that every shipped recipe fits them."""
    spec = DataSpec(
        name="made-up",
        class_names=tuple(f"class {index}" for index in range(1000)),
        superclasses=None,
        mean=(0.25, 0.5, 0.75),
        std=(0.25, 0.25, 0.5),
        input_shape=(3, 32, 32),
        digest="d" * 64,
    )
    images = MemoryImages(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    return SplitData(DataSet(images, images, spec), torch.arange(4), torch.arange(0))


@pytest.mark.parametrize("settings", RECORDED)
def test_keys_and_digests_are_those_that_were_recorded(settings: str, split_data: SplitData) -> None:
    name, *overrides = settings.split()
    recipe = load_recipe(name, overrides)
    assert recipe.digest == RECORDED[settings]["digest"]
    if recipe.network.has_weights:  # their contents are part of the keys, and are not here
        return
    keys: list[str] = []
    for generation in range(3):
        plan = GenerationPlan(recipe, split_data, generation, keys[-1] if keys else None)
        keys.append(plan.key)
    assert keys == RECORDED[settings]["keys"]
    assert plan.soft_targets_digest == RECORDED[settings]["soft_targets"]


def test_every_shipped_recipe_is_recorded() -> None:
    assert set(recipe_names()) <= RECORDED.keys()
