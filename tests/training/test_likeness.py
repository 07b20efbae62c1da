"""Likeness of a student and its teacher, against features and explanations that are kept whole."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cosine_similarity

from lineage.data.datasets import build_digits
from lineage.models.networks import build_network
from lineage.models.stages import StagedNetwork
from lineage.training.likeness import LinearCka, measure_likeness
from lineage.training.measurement import Subset
from lineage.training.similarity import linear_cka

DIGITS = build_digits(None, False, 0)
SHAPE = DIGITS.spec.input_shape


@pytest.fixture(scope="module")
def subset() -> Subset:
    return Subset(DIGITS.test, torch.arange(50), DIGITS.spec, 16)


def _network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_network("resnet8", 10, SHAPE, {"width": width}).eval()


def test_likeness_is_that_of_features_and_explanations_kept_whole(subset: Subset) -> None:
    student, teacher = _network(4, 0), _network(6, 1)
    accelerator = Accelerator(cpu=True)
    found = measure_likeness(accelerator, student, copy.deepcopy(teacher), subset)
    images = torch.cat([batch[0] for batch in subset.batches(accelerator)])[:50]
    features, explanations, classes = [], [], torch.zeros(0)
    with torch.no_grad():
        for network in (teacher, student):
            names = network.stage_names()  # type: ignore[operator]
            logits, (maps,) = StagedNetwork(network, names[-1:])(images)
            classes = classes if len(classes) else logits.argmax(1)
            (head,) = (module for module in network.modules() if isinstance(module, nn.Linear))
            features.append(maps.mean((2, 3)).double())
            weighed = maps * head.weight[classes][:, :, None, None]
            explanations.append(weighed.sum(1).relu().flatten(1))
    assert found["cka"] == pytest.approx(linear_cka(*features).item(), abs=1e-6)
    cosine = cosine_similarity(*explanations).mean().item()
    assert found["explanation_similarity"] == pytest.approx(cosine, abs=1e-6)


def test_network_is_like_itself(subset: Subset) -> None:
    network = _network(4, 0)
    found = measure_likeness(Accelerator(cpu=True), network, copy.deepcopy(network), subset)
    assert found["cka"] == pytest.approx(1)
    assert 0 < found["explanation_similarity"] <= 1 + 1e-6  # 0 for an explanation without a positive part


def test_network_without_feature_maps_is_like_nothing(subset: Subset) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], 10))
    assert measure_likeness(Accelerator(cpu=True), _network(4, 0), flat, subset) == {}


def test_constant_features_have_no_alignment() -> None:
    metric = LinearCka(2, lambda rows: rows)
    metric.update(torch.cat([torch.full((4, 2), 0.1), torch.randn(4, 3), torch.zeros(4, 1)], 1))
    assert metric.compute() == 0
