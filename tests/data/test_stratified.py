import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lineage.data.datasets import load_dataset
from lineage.data.splits import split_indices
from lineage.data.stratified import stratified_split

DATA_AND_SPLIT = """
import json, sys
from lineage.data.datasets import load_dataset
from lineage.data.splits import split_indices
labels = load_dataset("digits").train.labels
split_indices(labels, 10, 0.1, 0, train_samples=400, subset=(0, 1))
print(json.dumps(sorted(sys.modules)))
"""


def _labels(random: np.random.Generator, most: int) -> np.ndarray:
    """Labels of 2 to 40 classes, not all of them numbered; in half of the draws with equal counts."""
    classes = int(random.integers(2, 40))
    counts = random.integers(2, most, classes) if random.random() < 0.5 else np.full(classes, most)
    return random.permutation(np.repeat(np.arange(classes) * int(random.integers(1, 4)), counts))


@pytest.mark.parametrize("most", [3, 7, 100])
def test_split_is_that_of_scikit_learn(most: int) -> None:
    random = np.random.default_rng(most)
    for _ in range(60):
        labels = _labels(random, most)
        classes, rows = len(np.unique(labels)), np.arange(len(labels))
        num_first = int(random.integers(classes, len(labels) - classes + 1))
        seed = int(random.integers(2**32))
        expected = train_test_split(rows, train_size=num_first, stratify=labels, random_state=seed)
        for found, part in zip(stratified_split(labels, num_first, seed), expected, strict=True):
            assert found.tolist() == sorted(part), (labels.tolist(), num_first, seed)


def test_split_takes_classes_of_one_row() -> None:
    labels = torch.tensor([0, 1, *[2] * 18])
    train, validation = split_indices(labels, 3, 0, seed=1, train_samples=17)
    assert set(labels[train].tolist()) == {0, 1, 2}
    assert len(train) == 17
    assert validation.shape == (0,)


def test_digits_are_those_of_scikit_learn() -> None:
    digits, dataset = load_digits(), load_dataset("digits")
    rows = train_test_split(range(1797), test_size=0.2, stratify=digits.target, random_state=0)
    for part, images in zip(rows, (dataset.train, dataset.test), strict=True):
        assert images.labels.tolist() == digits.target[sorted(part)].tolist()
        pixels = np.round(digits.images[sorted(part)] * (255 / 16)).astype(np.uint8)
        assert np.array_equal(images.pixels.squeeze(-1).numpy(), pixels)
    assert dataset.spec.class_names == tuple(map(str, digits.target_names))


def test_reading_and_splitting_digits_load_no_scikit_learn() -> None:
    done = subprocess.run([sys.executable, "-c", DATA_AND_SPLIT], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "lineage.data.stratified" in loaded
    assert not {"sklearn", "scipy.stats"} & loaded
