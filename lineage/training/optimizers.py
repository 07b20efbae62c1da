"""Optimizers by name, of torch and timm.

A builder is called with groups of parameters, as torch's optimizers take them, and by keyword with the
settings of ``[training]`` that its signature names: ``lr``, ``weight_decay``, ``momentum``, ``nesterov``.
Where it names ``network`` it gets the network that is trained. All its other parameters are options of the
recipe.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from lineage.errors import RecipeError
from lineage.extensions import Builder, changed_options, named_settings, resolve, typed_options
from lineage.formats import first_line

Groups = list[dict[str, Any]]

SETTINGS = ("lr", "weight_decay", "momentum", "nesterov")
"""Settings of ``[training]`` that an optimizer may use."""

_GIVEN = (*SETTINGS, "groups", "network")  # not by [training.optimizer_options]


def sgd(groups: Groups, lr: float, weight_decay: float, momentum: float, nesterov: bool) -> Optimizer:
    """Build torch's SGD, whose weight decay is part of the gradient."""
    return SGD(groups, lr, momentum, weight_decay=weight_decay, nesterov=nesterov)


def adamw(
    groups: Groups,
    lr: float,
    weight_decay: float,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> Optimizer:
    """Build torch's AdamW (Loshchilov and Hutter, ICLR 2019)."""
    return AdamW(groups, lr, (beta1, beta2), eps, weight_decay)


def lion(
    groups: Groups, lr: float, weight_decay: float, *, beta1: float = 0.9, beta2: float = 0.99
) -> Optimizer:
    """Build timm's Lion (Chen et al., NeurIPS 2023); its rate is 3 to 10 times less than AdamW's."""
    optimizer: Optimizer = _timm("lion").Lion(groups, lr, (beta1, beta2), weight_decay)
    return optimizer


def lamb(
    groups: Groups,
    lr: float,
    weight_decay: float,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-6,
) -> Optimizer:
    """Build timm's LAMB (You et al., ICLR 2020) without its own clipping: ``training.clip_norm`` is ours."""
    optimizer: Optimizer = _timm("lamb").Lamb(
        groups, lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, max_grad_norm=None
    )
    return optimizer


def muon(
    groups: Groups,
    network: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    muon_momentum: float = 0.95,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> Optimizer:
    """Build torch's Muon for hidden matrices, and AdamW for all other parameters, as torch's manual says.

    The size of Muon's steps is that of AdamW's (``match_rms_adamw``), so both have one learning rate.

    Raises:
        RecipeError: If this torch has no Muon, or the network no hidden matrices.
    """
    if not hasattr(torch.optim, "Muon"):
        raise RecipeError(
            "training.optimizer 'muon' needs torch 2.9 or later, but this is torch"
            f" {torch.__version__}; install a later one, or choose 'adamw'."
        )
    hidden = _hidden_matrices(network)
    if not hidden:
        raise RecipeError(
            "training.optimizer 'muon' is for matrices between the first and the last layer, as transformers"
            " have them, but this network has none: a convolution's weights are no matrix; choose 'adamw'."
        )
    mine = [group | {"params": [p for p in group["params"] if p in hidden]} for group in groups]
    rest = [group | {"params": [p for p in group["params"] if p not in hidden]} for group in groups]
    first = torch.optim.Muon(_filled(mine), lr, weight_decay, muon_momentum, adjust_lr_fn="match_rms_adamw")
    return JoinedOptimizer([first, AdamW(_filled(rest), lr, (beta1, beta2), weight_decay=weight_decay)])


OPTIMIZERS: dict[str, Builder] = {"sgd": sgd, "adamw": adamw, "lion": lion, "lamb": lamb, "muon": muon}
"""Builders of optimizers by name."""


class JoinedOptimizer(Optimizer):
    """Several optimizers of different parameters, as one whose groups and state are those of all.

    Args:
        parts: The optimizers; they work on the groups and the state of this one from now on.
    """

    def __init__(self, parts: list[Optimizer]) -> None:
        groups = [group for part in parts for group in part.param_groups]
        super().__init__(groups, {})
        self.parts = parts

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step of every part."""
        assert closure is None
        start = 0
        for part in self.parts:  # a checkpoint that was loaded has replaced groups and state
            end = start + len(part.param_groups)
            part.state, part.param_groups = self.state, self.param_groups[start:end]
            part.step()
            start = end


def optimizer_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``settings`` of ``[training]`` that the optimizer ``name`` uses, which enter keys.

    Raises:
        RecipeError: If no optimizer has that name.
    """
    return named_settings(resolve("optimizer", name, OPTIMIZERS), {key: settings[key] for key in SETTINGS})


def optimizer_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an optimizer with the types and defaults of its signature.

    Raises:
        RecipeError: If the optimizer is unknown, takes no such option, or an option has another type.
    """
    builder = resolve("optimizer", name, OPTIMIZERS)
    return typed_options(f"The optimizer '{name}'", "training.optimizer_options", builder, options, _GIVEN)


def changed_optimizer_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``optimizer_options`` that differ from the defaults: only they enter keys."""
    return changed_options(resolve("optimizer", name, OPTIMIZERS), optimizer_options(name, options))


def build_optimizer(
    name: str,
    network: nn.Module,
    *,
    decay_norm_and_bias: bool,
    options: Mapping[str, Any] | None = None,
    factors: Mapping[nn.Parameter, float] | None = None,
    **settings: Any,
) -> Optimizer:
    """Return an optimizer of the network's parameters.

    Args:
        name: Key of ``OPTIMIZERS``, or ``package:name`` of an installed package.
        network: Network to optimise.
        decay_norm_and_bias: Whether weight decay also applies to parameters of one dimension.
        options: Options of the optimizer by name.
        factors: Factors of the learning rate of some parameters; 1 for all others. The groups hold them as
            ``lr_factor``.
        **settings: ``lr``, ``weight_decay``, ``momentum`` and ``nesterov``; those that the optimizer does not
            have are ignored.

    Raises:
        RecipeError: If the optimizer is unknown, does not take an option, or cannot be built.
    """
    builder = resolve("optimizer", name, OPTIMIZERS)
    checked = optimizer_options(name, options or {})
    groups = _groups(network, decay_norm_and_bias, factors or {})
    used = named_settings(builder, settings | {"network": network})
    try:
        optimizer: Optimizer = builder(groups, **used, **checked)
    except RecipeError:
        raise
    except Exception as error:  # torch refuses values, and a package's builder is any code
        raise RecipeError(
            f"training.optimizer '{name}' must be built from its options, {checked or 'none'}, but its"
            f" builder fails: {first_line(error)}; correct [training]."
        ) from error
    return optimizer


def _groups(network: nn.Module, decay_norm_and_bias: bool, factors: Mapping[nn.Parameter, float]) -> Groups:
    """Return groups of parameters: decayed ones first, each by its factor of the learning rate."""
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        spared = not decay_norm_and_bias and parameter.ndim <= 1
        found.setdefault((spared, factors.get(parameter, 1.0)), []).append(parameter)
    return [
        {"params": parameters, "lr_factor": factor} | ({"weight_decay": 0.0} if spared else {})
        for (spared, factor), parameters in sorted(found.items(), key=lambda item: item[0])
    ]


def _hidden_matrices(network: nn.Module) -> set[nn.Parameter]:
    """Return the weights of two dimensions, but for embeddings and the last linear layer."""
    embeddings = {module.weight for module in network.modules() if isinstance(module, nn.Embedding)}
    linear = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    return {p for p in network.parameters() if p.ndim == 2} - embeddings - {*linear[-1:]}


def _filled(groups: Groups) -> Groups:
    return [group for group in groups if group["params"]]


def _timm(module: str) -> Any:
    """Return a module of ``timm.optim``."""
    try:
        return importlib.import_module(f"timm.optim.{module}")
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"training.optimizer '{module}' needs the extra 'timm', but it is not installed; run pip install"
            " '.[timm]' in the clone of lineage."
        ) from error
