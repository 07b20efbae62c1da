"""A patriarch whose loss ranks no classes needs no K, however few classes there are."""

from dataclasses import replace

import pytest
import torch

from lineage.data.images import DataSet, MemoryImages, memory_dataset
from lineage.errors import RecipeError
from lineage.evaluation.data import SplitData
from lineage.evaluation.evaluate import score_logits
from lineage.growing.plan import check_against_data
from lineage.recipe import load_recipe

SETTINGS = ["patriarch.top_k=5", "training.batch_size=8"]


def _data(num_classes: int) -> SplitData:
    labels = torch.arange(num_classes).repeat(4)
    images = MemoryImages(torch.zeros(len(labels), 8, 8, 1, dtype=torch.uint8), labels)
    names = [f"class {index}" for index in range(num_classes)]
    dataset: DataSet = memory_dataset("few", images, images, names)
    dataset = replace(dataset, spec=replace(dataset.spec, std=(0.5,)))
    return SplitData(dataset, torch.arange(len(labels)), torch.arange(0))


@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize("objective", ["strict", "label-smoothing", "confidence-penalty"])
def test_loss_without_ranks_needs_no_top_k(num_classes: int, objective: str) -> None:
    recipe = load_recipe("digits", [f"patriarch.objective={objective}", *SETTINGS])
    check_against_data(recipe, _data(num_classes))


@pytest.mark.parametrize("settings", [["patriarch.objective=tolerant"], ["patriarch.top_k=6"]])
def test_top_k_that_is_used_or_was_set_must_fit(settings: list[str]) -> None:
    recipe = load_recipe("digits", ["patriarch.objective=strict", *SETTINGS, *settings])
    with pytest.raises(RecipeError, match="between 2 and the number of classes, 4"):
        check_against_data(recipe, _data(4))


@pytest.mark.parametrize("num_classes", [2, 3, 4])
def test_metrics_rank_all_classes_if_there_are_fewer_than_k(num_classes: int) -> None:
    logits = torch.randn(20, num_classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % num_classes
    assert score_logits(logits, labels, 5) == score_logits(logits, labels, num_classes)
    with pytest.raises(ValueError, match="k must"):
        score_logits(logits, labels, 1)
