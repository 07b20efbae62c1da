"""Networks without ``lineage``: pixels to logits in one module, and Python files that build a network.

A Python file that ``network_source`` writes needs torch, safetensors and the library of the network alone:
networks of ours come with their source.
"""

import copy
import inspect
import keyword
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lineage.data.images import DataSpec
from lineage.errors import UsageError
from lineage.extensions import source_of
from lineage.formats import printable
from lineage.models import cifar
from lineage.models.networks import (
    EXPORTED,
    NETWORKS,
    TIMM,
    TORCHVISION,
    find_builder,
    options_without_weights,
)

_HEAD = '''"""A network: ``build()`` makes it, ``load()`` gives it its weights and normalises its pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
'''
_TAIL = '''

def build() -> nn.Module:
    """Build the network with random weights; it takes normalised images (B, channels, H, W)."""
    return {call}


def load(folder: Path = Path(__file__).parent) -> nn.Module:
    """Return the trained network, from pixels in [0, 1], float32 (B, channels, H, W), to logits."""
    network = build()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Normalised(network, mean={mean}, std={std}).eval()
'''
_LAST_IMPORT = "from lineage.errors import RecipeError\n"
_IN_ITS_PLACE = "from torch.nn import functional as F\n\nRecipeError = ValueError\n"


class Normalised(nn.Module):
    """Network with the normalisation of its pixels.

    Args:
        network: Network that takes normalised images (B, C, H, W).
        mean: Mean of each channel, subtracted from pixels in [0, 1].
        std: Deviation of each channel, by which the difference is divided.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, classes) for pixels in [0, 1], float32 (B, C, H, W)."""
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def portable(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Normalised:
    """Return a network that takes pixels, ready to be exported for batches of any size.

    Raises:
        UsageError: If it is a program that takes batches of some sizes alone.
    """
    from lineage.models.exported import ExportedNetwork  # torch.export takes a second to import

    if isinstance(network, ExportedNetwork):
        program = network.runner()
        smallest, largest = program.batches
        if largest is not None or smallest > 2:  # 2 is what torch.export writes for any
            raise UsageError(
                "The program must take batches of any size to be exported, but takes"
                f" {smallest} to {largest or 'any number of'} images; adopt one with a dynamic batch."
            )
        network = program.graph
    else:
        network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    return Normalised(network, mean, std)


def network_source(name: str, options: Mapping[str, Any], spec: DataSpec) -> str:
    """Return a Python file with functions ``build`` and ``load`` for a network, which needs no ``lineage``.

    Args:
        name: Name of the network, as in a recipe.
        options: Options that it was built with.
        spec: Classes, input shape and normalisation.

    Raises:
        UsageError: If the network is an exported program or an ensemble, which no function builds.
    """
    code, call = _builder(name, options_without_weights(name, options), spec)
    values = {"call": call, "mean": spec.mean, "std": spec.std}
    return "".join([_HEAD, code, "\n\n", inspect.getsource(Normalised), _TAIL.format(**values)])


def _builder(name: str, options: Mapping[str, Any], spec: DataSpec) -> tuple[str, str]:
    """Return the code above ``build``, and the expression in it."""
    if name.startswith(TORCHVISION):
        from lineage.models.torchvision import torchvision_arguments

        arguments = torchvision_arguments(name, spec.num_classes, spec.input_shape, options)
        code = "from torchvision import models\n"
        return code, f"models.get_model({_written([name.removeprefix(TORCHVISION)], arguments)})"
    if name.startswith(TIMM):
        from lineage.models.timm_networks import timm_arguments

        sizes = {"num_classes": spec.num_classes, "in_chans": spec.input_shape[0]}
        arguments = {**sizes, **timm_arguments(name, spec.input_shape), **options}
        return "import timm\n", f"timm.create_model({_written([name.removeprefix(TIMM)], arguments)})"
    if name in NETWORKS:
        builder = NETWORKS[name]
        assert isinstance(builder, partial)
        code = _IN_ITS_PLACE + inspect.getsource(cifar).partition(_LAST_IMPORT)[2]
        given = [*builder.args, spec.num_classes, spec.input_shape]
        return code, f"{builder.func.__name__}({_written(given, options)})"
    if source_of("network", name) is None:
        what = "an exported program" if name == EXPORTED else "an ensemble"
        raise UsageError(
            f"Weights can be exported of a network that a function builds, but this is {what}; use --to onnx"
            " or --to pt2."
        )
    function = find_builder(name, options)
    code = f"from {function.__module__} import {function.__qualname__}\n"
    return code, f"{function.__qualname__}({_written([spec.num_classes, spec.input_shape], options)})"


def _written(arguments: Sequence[Any], options: Mapping[str, Any]) -> str:
    """Return the arguments of a call as code; names come from a registry, so they are checked to be names."""
    for key in options:
        if not key.isidentifier() or keyword.iskeyword(key):
            raise UsageError(
                "Options of a network must have names that Python takes to be exported with its weights, but"
                f" one is '{printable(key)}'; use --to onnx or --to pt2."
            )
    named = (f"{key}={value!r}" for key, value in options.items())
    return ", ".join([*map(repr, arguments), *named])
