"""The most probable classes and the scores that explain them, against scikit-learn and plain sums."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy.special import softmax
from torch import nn

from lineage.data.datasets import DataSpec, MemoryImages
from lineage.training.losses import top_score_difference
from lineage.training.measurement import Subset, measure
from lineage.training.top_classes import TopClasses, top_classes

NUM_SAMPLES, NUM_CLASSES, TOP_K = 60, 12, 7
SUPERCLASSES = torch.arange(NUM_CLASSES) % 3


def _samples(num_classes: int = NUM_CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(NUM_SAMPLES, num_classes, generator=generator)
    return logits, torch.randint(num_classes, (NUM_SAMPLES,), generator=generator)


def test_classes_and_scores_are_those_of_a_plain_sum() -> None:
    logits, labels = _samples()
    found = top_classes(logits, labels, TOP_K, SUPERCLASSES)
    probabilities = softmax(logits.numpy().astype(np.float64), axis=1)
    order = np.argsort(-probabilities, axis=1)
    assert (found.classes.numpy() == order[:, :5]).all()
    for row in range(NUM_SAMPLES):
        ranked = probabilities[row, order[row]]
        assert found.probabilities[row].numpy() == pytest.approx(ranked[:5], abs=1e-6)
        masses, classes = ranked[1:TOP_K], order[row, 1:TOP_K]
        inside = masses[classes % 3 == int(labels[row]) % 3].sum()
        assert found.scores["secondary_mass"][row].item() == pytest.approx(masses.sum(), abs=1e-6)
        assert found.scores["superclass_share"][row].item() == pytest.approx(inside / masses.sum(), abs=1e-5)
    mean = found.scores["top_score_difference"].mean().item()
    assert mean == pytest.approx(top_score_difference(logits, TOP_K).mean().item(), abs=1e-6)


def test_few_classes_and_no_superclasses() -> None:
    logits, labels = _samples(3)
    found = top_classes(logits, labels, 5)
    assert (found.classes.shape, found.top_k, found.num_classes) == ((NUM_SAMPLES, 3), 3, 3)
    assert found.scores.keys() == {"top_score_difference", "secondary_mass"}


def _equal(one: TopClasses, other: TopClasses) -> bool:
    pairs = zip(
        (one.labels, one.classes, one.probabilities, *one.scores.values()),
        (other.labels, other.classes, other.probabilities, *other.scores.values()),
        strict=True,
    )
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("batch_size", [7, 60])
def test_one_pass_gives_them_in_the_order_of_the_subset(batch_size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (80, 4, 4, 1), generator=generator, dtype=torch.uint8)
    labels = torch.randint(NUM_CLASSES, (80,), generator=generator)
    names = tuple(str(i) for i in range(NUM_CLASSES))
    spec = DataSpec("tiles", names, tuple(SUPERCLASSES.tolist()), (0.5,), (0.25,), (1, 4, 4), "d")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, NUM_CLASSES))
    rows = torch.arange(79, 19, -1)  # neither all nor in the order of the images
    subset = Subset(MemoryImages(pixels, labels), rows, spec, batch_size)
    seen = measure(Accelerator(cpu=True), network, subset, 3, keep_logits=True, keep_top_classes=True)
    assert seen.top_classes is not None
    assert _equal(seen.top_classes, top_classes(seen.logits, labels[rows], 3, SUPERCLASSES))
