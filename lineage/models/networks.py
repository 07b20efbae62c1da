"""Networks by name.

Every network maps normalised images (B, channels, H, W) to logits (B, C). Its method ``features(x)`` returns
the classifier's input, shape (B, D), which a transfer evaluation keeps frozen.
"""

import inspect
import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from lineage.errors import RecipeError, suggestion
from lineage.extensions import Builder, resolve
from lineage.formats import first_line
from lineage.models.cifar import densenet_bc, resnet, resnet_x4, wide_resnet
from lineage.models.limits import outlining, translated_build_errors

NETWORKS: dict[str, Builder] = {
    "resnet8": partial(resnet, 8),
    "resnet20": partial(resnet, 20),
    "resnet32": partial(resnet, 32),
    "resnet44": partial(resnet, 44),
    "resnet56": partial(resnet, 56),
    "resnet110": partial(resnet, 110),
    "resnet8x4": partial(resnet_x4, 8),
    "resnet32x4": partial(resnet_x4, 32),
    "densenet-bc-100-12": partial(densenet_bc, 100, 12),
    "densenet-bc-190-40": partial(densenet_bc, 190, 40),
    "wrn-16-2": partial(wide_resnet, 16, 2),
    "wrn-28-10": partial(wide_resnet, 28, 10),
    "wrn-40-2": partial(wide_resnet, 40, 2),
}
"""Builders by name, called ``(num_classes, input_shape, **options)`` like those of installed packages."""

TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's classification models."""

TIMM = "timm:"
"""Prefix of the names of timm's models."""

WITH_WEIGHTS = (TORCHVISION, TIMM)
"""Prefixes of networks for which weights are listed."""

EXPORTED = "pt2"
"""Name of a network that is an exported program; no recipe uses it, its archive holds graph and weights."""


def build_network(
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a network, initialised from torch's global random state.

    Args:
        name: Key of ``NETWORKS``, ``torchvision:NAME``, ``timm:NAME``, or ``package:name`` of an installed
            package.
        num_classes: Number C of classes.
        input_shape: Channels, height and width of an image.
        options: Keyword arguments of the builder, such as ``{"width": 32}``.

    Returns:
        Module with ``features`` and ``forward``, in training mode, on torch's default device.

    Raises:
        NotFoundError: If the weights named in ``options`` cannot be fetched.
        RecipeError: If the name or an option is unknown, a value or the input shape is not supported, the
            network is larger than any machine could train, or a package's builder returns no such module.
    """
    options = dict(options or {})
    builder = find_builder(name, options)
    with translated_build_errors(name, options):
        if _can_outline(name):
            with outlining(name):
                builder(num_classes, input_shape, **options_without_weights(name, options))
        network = builder(num_classes, input_shape, **options)
    if not isinstance(network, nn.Module) or not callable(getattr(network, "features", None)):
        raise RecipeError(
            f"Network '{name}' must be a torch.nn.Module with a method features(x), but its builder returned "
            f"{type(network).__name__}; correct the builder."
        )
    return network


def check_network(
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    options: Mapping[str, Any] | None = None,
) -> None:
    """Check that a network can be built and takes images of the input shape.

    Those that have options for their size need no memory for that, unless they fetch weights.

    Raises:
        NotFoundError: If the weights named in ``options`` cannot be fetched.
        RecipeError: If it cannot be built, or fails for an image, or gives no logits.
    """
    options = dict(options or {})
    if _can_outline(name) and "weights" not in options:
        builder = find_builder(name, options)
        with translated_build_errors(name, options), outlining(name):
            network = builder(num_classes, input_shape, **options)
        device = "cpu" if _is_small(name, network, input_shape) else "meta"
        network = network.to_empty(device=device)
        image = torch.zeros(1, *input_shape, device=device)
    else:
        network = build_network(name, num_classes, input_shape, options)
        image = torch.zeros(1, *input_shape)
    shape = "x".join(map(str, input_shape))
    try:
        with torch.no_grad():
            found = network.eval()(image).shape
    except Exception as error:  # a network is any code
        raise RecipeError(
            f"Network '{name}' must take images of {shape}, but fails for one: {first_line(error)[:300]};"
            " choose another network or image size."
        ) from error
    if found != (1, num_classes):
        raise RecipeError(
            f"Network '{name}' must give {num_classes} logits for an image of {shape}, but gives the shape"
            f" {tuple(found[1:])}; correct its builder."
        )


def _is_small(name: str, network: nn.Module, input_shape: tuple[int, int, int]) -> bool:
    """Return whether one image is computed sooner than torch imports its compiler, to run without data.

    The weights are whatever memory holds, so networks that index by a buffer are left out.
    """
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return name in NETWORKS and num_parameters < 2**22 and math.prod(input_shape) < 2**18


def has_features(network: nn.Module) -> bool:
    """Return whether a network has features; ensembles and some exported programs have none."""
    return bool(getattr(network, "has_features", callable(getattr(network, "features", None))))


def options_without_weights(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that build the same network without fetching its initial weights.

    A trained network is loaded with them: its own weights replace the initial ones, which may be unavailable.
    ``weights`` makes torchvision's GoogLeNet and Inception v3 transform their input, so without it the option
    ``transform_input`` is set.

    Args:
        name: Name of the network.
        options: Options that the network was built with.
    """
    kept = {key: value for key, value in options.items() if key != "weights"}
    if name.startswith(TORCHVISION) and options.get("weights"):
        from lineage.models.torchvision import torchvision_options

        if "transform_input" in torchvision_options(name):
            kept.setdefault("transform_input", True)
    return kept


def _can_outline(name: str) -> bool:
    """Return whether a network has options for its size, and is known to be built without memory for it."""
    return name in NETWORKS or name.startswith(f"{TORCHVISION}vit_")


def find_builder(name: str, options: Mapping[str, Any]) -> Builder:
    """Return the builder of a network, which accepts ``options``."""
    builder, accepted = _find(name)
    if accepted is not None:
        _require_accepted(name, options, accepted)
    return builder


def _find(name: str) -> tuple[Builder, list[str] | None]:
    """Return the builder of a network and the options that it accepts, or None if it accepts any.

    torchvision, timm and torch.export take a second or more to import, so only their own networks do.
    """
    if name == EXPORTED:
        from lineage.models.exported import ExportedNetwork

        return ExportedNetwork, []
    if name.startswith(TORCHVISION):
        from lineage.models.torchvision import build_torchvision, torchvision_options

        return partial(build_torchvision, name), torchvision_options(name)
    if name.startswith(TIMM):
        from lineage.models.timm_networks import build_timm

        return partial(build_timm, name), None
    if name not in NETWORKS and ":" not in name:
        from lineage.models.torchvision import torchvision_names

        if TORCHVISION + name in torchvision_names():
            raise RecipeError(f"Unknown network '{name}'. Did you mean '{TORCHVISION}{name}'?")
    builder = resolve("network", name, NETWORKS)
    parameters = list(inspect.signature(builder).parameters.values())[2:]  # after num_classes and input_shape
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return builder, None
    return builder, [parameter.name for parameter in parameters]


def _require_accepted(name: str, options: Collection[str], accepted: Collection[str]) -> None:
    for option in options:
        if option not in accepted:
            known = f"only the options {', '.join(accepted)}" if accepted else "no options"
            raise RecipeError(
                f"Network '{name}' takes {known}, but got '{option}'.{suggestion(option, accepted)}"
            )
