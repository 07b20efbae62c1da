"""Weights that generations start from: read by name or from a file, known by their content."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lineage.errors import RecipeError
from lineage.models.networks import TIMM, WITH_WEIGHTS, build_network, options_without_weights
from lineage.models.pretrained import fit_state, read_state, strip_prefix
from lineage.recipe import is_weights_file

_PREFIX = "network.strip_prefix"


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a network starts from.

    Attributes:
        network: Name of the network, as in a recipe.
        weights: Safetensors file, or a name that torchvision or timm give.
        prefix: Beginning of every name in the file to leave out.
    """

    network: str
    weights: str
    prefix: str = ""

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options of the network's builder that go with the weights, and fetch none."""
        if is_weights_file(self.weights):
            return dict(options)
        return options_without_weights(self.network, {**options, "weights": self.weights})

    def build(
        self, num_classes: int, input_shape: tuple[int, int, int], options: Mapping[str, Any]
    ) -> tuple[nn.Module, str]:
        """Build the network with the weights.

        Args:
            num_classes: Number of classes; of weights for another number, the last layer is left out.
            input_shape: Channels, height and width of an image.
            options: Options of the network's builder.

        Returns:
            The network, and a sentence if its last layer is new, else "".

        Raises:
            NotFoundError: If the weights are not there.
            IntegrityError: If they are damaged, or pickled.
            UsageError: If they are not those of the network.
        """
        network = build_network(self.network, num_classes, input_shape, self.options(options))
        state = self.read(input_shape[0], options)
        own = fit_state(network, state, self.network, new_head_for=num_classes, setting=f"{_PREFIX}=")
        if own is None:
            return network, ""
        return network, (
            f"the last layer is new: the weights '{self.weights}' are for {own} classes, the data have"
            f" {num_classes}"
        )

    def digest(self, num_channels: int, options: Mapping[str, Any]) -> str:
        """Return the SHA-256, in hexadecimal, of names and values of the weights, wherever they come from."""
        state = self.read(num_channels, options)
        contiguous = {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
        return hashlib.sha256(save(contiguous)).hexdigest()

    def read(self, num_channels: int, options: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors by their names in the library of the network."""
        if is_weights_file(self.weights):
            state = read_state(Path(self.weights).expanduser(), trust_pickle=None)
            return strip_prefix(state, self.prefix, _PREFIX)
        if not self.network.startswith(WITH_WEIGHTS):
            raise RecipeError(
                f"network.weights of '{self.network}' must be a file, since no weights are listed for it, but"
                f" are '{self.weights}'; name a file of safetensors."
            )
        if self.network.startswith(TIMM):
            from lineage.models.timm_networks import read_timm_weights

            return read_timm_weights(self.network, self.weights, num_channels, options)
        from lineage.models.torchvision import read_torchvision_weights

        return read_torchvision_weights(self.network, self.weights)
