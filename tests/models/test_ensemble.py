from dataclasses import replace

import pytest
import torch
from torch import nn

from lineage.data.datasets import DataSpec
from lineage.errors import IntegrityError
from lineage.models.ensemble import EnsembleNetwork, Renormalised, fit_to_data

OWN = DataSpec(
    name="own",
    class_names=("red", "green", "blue"),
    superclasses=None,
    mean=(0.25, 0.5, 0.75),
    std=(0.125, 0.25, 0.5),
    input_shape=(3, 4, 4),
    digest="",
)
OTHER = replace(OWN, name="other", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))


def normalised(pixels: torch.Tensor, data: DataSpec) -> torch.Tensor:
    return torch.stack(
        [(pixels[:, channel] - data.mean[channel]) / data.std[channel] for channel in range(3)], dim=1
    )


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_renormalised_network_sees_images_as_its_own_data_have_them(pixels: torch.Tensor) -> None:
    seen = Renormalised(nn.Identity(), OWN, OTHER)(normalised(pixels, OTHER))
    torch.testing.assert_close(seen, normalised(pixels, OWN))
    assert not torch.allclose(seen, normalised(pixels, OTHER))


def test_network_of_another_normalisation_is_converted(pixels: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    fitted = fit_to_data(network, OWN, OTHER, "it")
    torch.testing.assert_close(fitted(normalised(pixels, OTHER)), network(normalised(pixels, OWN)))
    assert not fitted.training
    assert fitted.state_dict().keys() == {"network.1.weight", "network.1.bias"}


def test_network_of_equal_normalisation_stays_as_it_is() -> None:
    network = nn.Identity()
    assert fit_to_data(network, OWN, replace(OWN, name="other", digest="other"), "it") is network


@pytest.mark.parametrize(
    ("class_names", "told"),
    [
        (("red", "blue", "green"), r"it has 3 \(class 1 is 'green'\) and 'other' 3 \(class 1 is 'blue'\)"),
        (("red", "green"), r"it has 3 \(class 2 is 'blue'\) and 'other' 2 \(no class 2\)"),
        ((), r"it has 3 \(class 0 is 'red'\) and 'other' 0 \(no class 0\)"),
    ],
)
def test_network_of_other_classes_is_refused_with_both_sides(class_names: tuple[str, ...], told: str) -> None:
    with pytest.raises(IntegrityError, match=told):
        fit_to_data(nn.Identity(), OWN, replace(OTHER, class_names=class_names), "it")


def test_network_of_another_shape_is_refused_with_both_sides() -> None:
    with pytest.raises(IntegrityError, match=r"it takes \(3, 4, 4\) and 'other' has \(1, 4, 4\)"):
        fit_to_data(nn.Identity(), OWN, replace(OTHER, input_shape=(1, 4, 4)), "it")


def test_ensemble_is_the_weighted_mean_of_probabilities(pixels: torch.Tensor) -> None:
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(48, 3)) for _ in range(2)]
    expected = 0.25 * members[0](pixels).softmax(1) + 0.75 * members[1](pixels).softmax(1)
    torch.testing.assert_close(EnsembleNetwork(members, [1, 3])(pixels).softmax(1), expected)
