from pathlib import Path

import pytest
from full_scale import CIFAR, IMAGENET, Cost, measure, table, write_jpegs, write_part

from lineage.data.datasets import load_dataset
from lineage.recipe import load_recipe
from lineage.recipe.files import recipe_names, recipe_path


def test_every_recipe_that_needs_a_gpu_is_run() -> None:
    started = {name for name in recipe_names() if load_recipe(name).network.has_weights}  # that are fetched
    texts = {name: recipe_path(name).read_text() for name in {*recipe_names()} - started}
    assert {*CIFAR, *IMAGENET} == {name for name, text in texts.items() if "GPU" in text.split("[model]")[0]}


def test_part_of_cifar_has_the_same_classes_in_both_layouts(noise: Path, tmp_path: Path) -> None:
    write_part(noise, tmp_path / "cifar")
    write_jpegs(noise, tmp_path / "imagenet")
    cifar = load_dataset("cifar100", str(tmp_path / "cifar"))
    imagenet = load_dataset("imagenet", str(tmp_path / "imagenet"))
    assert cifar.train.labels.tolist() == imagenet.train.labels.tolist()
    assert cifar.train.labels.bincount().tolist() == [7] * 100
    assert len(cifar.test) == len(imagenet.test) == 100
    assert imagenet.train.read(0).shape == (3, 224, 224)  # type: ignore[union-attr]


def test_costs_are_rows_of_a_table() -> None:
    *_, row = table([Cost("cifar100-resnet20", "resnet20", 1234.56, 0.94)]).splitlines()
    assert row == "| cifar100-resnet20 | resnet20 | 1,234.6 ms | 0.9 ms |"


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", CIFAR[:1])
def test_full_scale_recipe_runs_from_end_to_end(name: str, noise: Path) -> None:
    cost = measure(name, [f"data.root={noise}", "data.validation=0.15"])
    assert min(cost.patriarch, cost.student) > 0
