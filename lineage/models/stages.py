"""Stages of a network: the submodules whose outputs are the feature maps that terms of a loss compare.

A network names them itself by a method ``stage_names()``, which returns names of submodules in order. Where
it has none, they are found from the sizes of what its submodules return for one image: the last module of
each resolution, outermost ones first. So the stages of a ResNet of torchvision or timm are its stem and
``layer1`` to ``layer4``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lineage.errors import UsageError
from lineage.formats import counted


class StagedNetwork(nn.Module):
    """A network that also returns the feature maps of some of its stages.

    Args:
        network: Network with logits (B, C).
        names: Names of submodules whose outputs to return.
        leaves: Whether logits can be differentiated by the maps though the network is frozen.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], leaves: bool = False) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)
        self.leaves = leaves

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, C) and feature maps (B, D, H', W') in the order of the names."""
        maps: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
                if self.leaves and not output.requires_grad:
                    maps[name] = output.detach().requires_grad_()
                    return maps[name].clone()  # which the next module may change in place
                maps[name] = output
                return output

            return self.network.get_submodule(name).register_forward_hook(hook)

        handles = [keep(name) for name in dict.fromkeys(self.names)]
        try:
            logits: Tensor = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        unused = next((name for name in self.names if name not in maps), None)
        if unused is not None:
            raise UsageError(
                f"Stage '{unused}' of a network must be called in its forward pass, but is not; correct its"
                " stage_names()."
            )
        return logits, [maps[name] for name in self.names]


def stage_names(network: nn.Module, input_shape: tuple[int, int, int]) -> list[str]:
    """Return the names of the submodules that end the stages of a network, from first to last.

    Args:
        network: Network; it keeps its mode.
        input_shape: (channels, H, W) of an image.

    Returns:
        Names for ``get_submodule``; none if the network has no feature maps, such as an ensemble.
    """
    for path, module in network.named_modules():
        named = getattr(module, "stage_names", None)
        if callable(named):
            return [f"{path}.{name}" if path else name for name in named()]
    return _found_by_size(network, input_shape)


def pick_stages(
    network: nn.Module, input_shape: tuple[int, int, int], numbers: Sequence[int], who: str
) -> list[str]:
    """Return the names of the stages with some numbers: 1 is the first one, -1 the last.

    Args:
        network: Network; it keeps its mode.
        input_shape: (channels, H, W) of an image.
        numbers: Numbers of stages, none of them 0.
        who: Name of the network in errors.

    Raises:
        UsageError: If the network has no such stage.
    """
    names = stage_names(network, input_shape)
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            raise UsageError(
                f"stage_names() of {who} must name its submodules, but names '{name}'; correct it."
            )
    for number in numbers:
        if not 1 <= abs(number) <= len(names):
            raise UsageError(
                f"student.terms must look at stages of {who}, which has"
                f" {counted(len(names), 'stage')}, but has stage = {number}; choose"
                f" {'another one' if names else 'a loss on logits alone'}."
            )
    return [names[number - 1 if number > 0 else number] for number in numbers]


def map_shapes(
    network: nn.Module, names: Sequence[str], input_shape: tuple[int, int, int]
) -> list[tuple[int, int, int]]:
    """Return the shapes (D, H', W') of the feature maps of some stages for one image.

    Raises:
        UsageError: If a stage returns anything but feature maps.
    """
    _, maps = run_once(StagedNetwork(network, names), network, input_shape)
    for name, found in zip(names, maps, strict=True):
        if not isinstance(found, Tensor) or found.ndim != 4:
            kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(
                f"Stage '{name}' of a network must return feature maps of shape (B, D, H, W), but returns"
                f" {kind}; correct its stage_names()."
            )
    return [(found.shape[1], found.shape[2], found.shape[3]) for found in maps]


def require_head(network: nn.Module, stage: str, input_shape: tuple[int, int, int], who: str) -> nn.Linear:
    """Return the linear layer that gives a network's logits from the means of a stage's feature maps.

    Args:
        network: Network; it keeps its mode.
        stage: Name of the submodule that ends the stage.
        input_shape: (channels, H, W) of an image.
        who: Name of the network in errors.

    Raises:
        UsageError: If its logits are computed in another way, or from another stage.
    """
    head = find_head(network, stage, input_shape)
    if head is not None:
        return head
    raise UsageError(
        "The term 'explanation' of student.terms needs networks whose logits are a linear layer of the means"
        f" of the stage's feature maps, but in {who} they are not for the stage '{stage}'; leave stage at -1,"
        " or set differentiate = true for the term."
    )


def find_head(network: nn.Module, stage: str, input_shape: tuple[int, int, int]) -> nn.Linear | None:
    """Return the layer of ``require_head``; None if the network has none."""
    logits, (maps,) = run_once(StagedNetwork(network, [stage]), network, input_shape)
    layers = (module for module in network.modules() if isinstance(module, nn.Linear))
    return next((head for head in layers if _is_linear_in_means(head, maps, logits)), None)


def _is_linear_in_means(head: nn.Linear, maps: Tensor, logits: Tensor) -> bool:
    if maps.ndim != 4 or (head.in_features, head.out_features) != (maps.shape[1], logits.shape[1]):
        return False
    with torch.no_grad():
        difference = head(maps.mean((2, 3))) - logits
    return bool(difference.abs().max() <= 1e-3 * logits.abs().max())


def _found_by_size(network: nn.Module, input_shape: tuple[int, int, int]) -> list[str]:
    outputs: list[tuple[str, tuple[int, ...]]] = []  # in the order in which modules return

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.append((name, tuple(output.shape)))

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in network.named_modules() if name]
    try:
        run_once(network, network, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    return _last_of_each_size(outputs, input_shape)


def _last_of_each_size(
    outputs: Sequence[tuple[str, tuple[int, ...]]], input_shape: tuple[int, int, int]
) -> list[str]:
    calls = Counter(name for name, _ in outputs)
    last: dict[tuple[int, int], str] = {}
    for name, shape in outputs:
        if len(shape) == 3 and shape[1] > 1:  # tokens, as of a ViT: what came before is no stage
            last.clear()
        if calls[name] > 1 or len(shape) != 4 or not _is_map(shape, input_shape):
            continue  # a module that is called again, such as a shared ReLU, ends no stage
        size = (shape[2], shape[3])
        if last and size > min(last):  # enlarged again for a classifier, as by VGG
            continue
        if size not in last or name.count(".") <= last[size].count("."):
            last[size] = name
    return list(last.values())


def _is_map(shape: Sequence[int], input_shape: tuple[int, int, int]) -> bool:
    """Return whether an output is a map: one position is pooled, and other proportions have channels last."""
    height, width = shape[2:]
    return height * width > 1 and round(input_shape[1] / height) == round(input_shape[2] / width)


def run_once(module: nn.Module, network: nn.Module, input_shape: tuple[int, int, int]) -> Any:
    """Pass one image of noise in evaluation mode, without gradients; the network keeps its mode."""
    was_training = network.training
    parameter = next(network.parameters(), None)
    images = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    if parameter is not None:
        images = images.to(parameter.device)
    with torch.no_grad():
        try:
            network.eval()
            return module(images)
        finally:
            network.train(was_training)
