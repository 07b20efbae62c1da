import copy
import sys
from typing import get_args

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from lineage.errors import RecipeError
from lineage.recipe import OptimizerName
from lineage.training.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    changed_optimizer_options,
    optimizer_settings,
)

SETTINGS = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}


def perceptron() -> nn.Sequential:
    """A convolution, a norm, a hidden layer and a last one."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), *flat, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    )


def train(network: nn.Module, optimizer: Optimizer, steps: int) -> float:
    """Take steps on one batch; the loss before the last one."""
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(12, 1, 8, 8, generator=generator), torch.arange(12) % 3
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_optimizers_are_those_a_recipe_names() -> None:
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_lowers_the_loss_and_goes_on_from_its_state(name: str) -> None:
    settings = SETTINGS | {"lr": 0.01}
    network = perceptron()
    optimizer = build_optimizer(name, network, decay_norm_and_bias=False, **settings)
    start = train(network, optimizer, 1)
    train(network, optimizer, 4)
    again = perceptron()
    again.load_state_dict(network.state_dict())
    other = build_optimizer(name, again, decay_norm_and_bias=False, **settings)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # which shares tensors
    assert train(again, other, 6) == train(network, optimizer, 6) < start
    for ours, theirs in zip(again.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_has_every_parameter_once_and_its_rate_and_decay(name: str) -> None:
    network = perceptron()
    optimizer = build_optimizer(name, network, decay_norm_and_bias=False, **SETTINGS)
    groups = optimizer.param_groups
    held = [p for group in groups for p in group["params"]]
    assert len(held) == len({*held}) == len([*network.parameters()])
    assert {group["lr"] for group in groups} == {0.1}
    for group in groups:
        spared = {p.ndim <= 1 for p in group["params"]}
        assert spared == {group["weight_decay"] == 0}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_takes_a_step_without_reading_a_value(name: str) -> None:
    """Tensors on the meta device have no values: what waits for one, as a host for its GPU, raises."""
    network = perceptron().to("meta")
    optimizer = build_optimizer(name, network, decay_norm_and_bias=False, **SETTINGS)
    for _ in range(2):
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
    with pytest.raises(RuntimeError):
        next(network.parameters()).sum().item()


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adamw", AdamW)])
def test_optimizer_takes_the_settings_it_has(name: str, kind: type) -> None:
    optimizer = build_optimizer(name, nn.Linear(2, 2), decay_norm_and_bias=True, **SETTINGS)
    assert isinstance(optimizer, kind)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.1, 1e-3)
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.9, True)


def test_settings_that_enter_keys_are_those_of_the_signature() -> None:
    assert optimizer_settings("sgd", SETTINGS) == SETTINGS
    assert optimizer_settings("muon", SETTINGS) == {"lr": 0.1, "weight_decay": 1e-3}


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    network = perceptron()
    optimizer = build_optimizer("muon", network, decay_norm_and_bias=True, **SETTINGS)
    hidden, rest = optimizer.param_groups
    assert hidden["params"] == [network[4].weight]
    assert hidden["adjust_lr_fn"] == "match_rms_adamw"
    assert network[6].weight in {*rest["params"]}
    before = network[4].weight.detach().clone()
    train(network, optimizer, 1)
    step = (network[4].weight.detach() - before * (1 - 0.1 * 1e-3)) / (0.1 * 0.2 * 8**0.5)
    # orthogonalised: all singular values are near 1, as Newton and Schulz's steps leave them
    values = torch.linalg.svdvals(step)[:5]  # one hidden unit is dead
    assert ((values > 0.4) & (values < 1.4)).all()


def test_muon_without_hidden_matrices_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3))
    with pytest.raises(RecipeError, match=r"this network has none.*choose 'adamw'"):
        build_optimizer("muon", network, decay_norm_and_bias=True, **SETTINGS)


def test_muon_is_refused_by_a_torch_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RecipeError, match=r"'muon' needs torch 2.9 or later, but this is torch"):
        build_optimizer("muon", perceptron(), decay_norm_and_bias=True, **SETTINGS)


def test_lion_without_timm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim.lion", None)
    with pytest.raises(RecipeError, match=r"'lion' needs the extra 'timm'"):
        build_optimizer("lion", perceptron(), decay_norm_and_bias=True, **SETTINGS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"beta1": 0.5}, "The optimizer 'sgd' takes no options, but training.optimizer_options has"),
        ("adamw", {"beta1": "x"}, "training.optimizer_options.beta1 must be a number, but got 'x'."),
        ("adamw", {"beta1": 2}, "training.optimizer 'adamw' must be built from its options"),
        ("adam", {}, "Unknown optimizer 'adam'; known are sgd, adamw, lion, lamb, muon."),
    ],
)
def test_optimizer_refuses_options_it_does_not_have(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        build_optimizer(name, perceptron(), decay_norm_and_bias=True, options=options, **SETTINGS)
    assert str(caught.value).startswith(message)


def test_options_enter_keys_where_they_differ_from_their_defaults() -> None:
    assert changed_optimizer_options("adamw", {"beta1": 0.9, "beta2": 0.95}) == {"beta2": 0.95}
    assert changed_optimizer_options("adamw", {}) == {}


def test_option_without_a_default_enters_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "own", lambda groups, lr, *, trust: torch.optim.SGD(groups, lr * trust))
    assert changed_optimizer_options("own", {"trust": 2}) == {"trust": 2}
    with pytest.raises(RecipeError, match="trust"):
        changed_optimizer_options("own", {})


def test_factors_of_the_rate_stand_in_groups_of_their_own() -> None:
    network = perceptron()
    factors = dict.fromkeys(network[0].parameters(), 0.5)
    groups = build_optimizer(
        "sgd", network, decay_norm_and_bias=True, factors=factors, **SETTINGS
    ).param_groups
    assert {group["lr_factor"]: len(group["params"]) for group in groups} == {0.5: 2, 1.0: 6}
