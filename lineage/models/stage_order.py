"""Which stage of a network each of its parts belongs to, to freeze first stages or train them more slowly."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lineage.errors import UsageError
from lineage.models.stages import run_once, stage_names


class StageOrder:
    """The stage of each module of a network: that in which its forward pass first calls the module.

    A module that is never called, such as a projection that attention reads the weights of, belongs to the
    stage of the module that holds it. What comes after the last stage is the head.

    Args:
        network: Network; it keeps its mode.
        input_shape: (channels, H, W) of an image.
        who: Name of the network in errors.

    Raises:
        UsageError: If the network has no stages, or names what is no submodule.
    """

    def __init__(self, network: nn.Module, input_shape: tuple[int, int, int], who: str) -> None:
        self._network = network
        self._who = who
        self.names = stage_names(network, input_shape)
        if not self.names:
            raise UsageError(
                f"{who} must have stages, feature maps of falling size, for training.freeze_stages and"
                " training.layer_decay, but has none; leave them out, or give it a method stage_names()."
            )
        self._stages = _first_calls(network, self.names, input_shape)

    def freeze(self, num_stages: int) -> list[str]:
        """Stop the parameters of the first stages from being trained.

        Returns:
            Names of the modules that lie in these stages as a whole: in training they must stay in evaluation
            mode, so that running statistics do not move either.

        Raises:
            UsageError: If the network has fewer stages.
        """
        if num_stages > len(self.names):
            raise UsageError(
                f"training.freeze_stages must be at most {len(self.names)}, the number of stages of"
                f" {self._who}, but is {num_stages}; lower it."
            )
        frozen = [name for name, stage in self._stages.items() if stage < num_stages]
        for name in frozen:
            for parameter in self._network.get_submodule(name).parameters(recurse=False):
                parameter.requires_grad_(False)
        trained = [name for name, stage in self._stages.items() if stage >= num_stages]
        return [name for name in frozen if not any(_lies_in(other, name) for other in trained)]

    def factors(self, decay: float) -> Mapping[nn.Parameter, float]:
        """Return a factor for each parameter: 1 for the head, ``decay`` for the last stage, and so on."""
        last = len(self.names)
        return {
            parameter: decay ** (last - stage)
            for name, stage in self._stages.items()
            for parameter in self._network.get_submodule(name).parameters(recurse=False)
        }


def _lies_in(name: str, outer: str) -> bool:
    return outer in {"", name} or name.startswith(f"{outer}.")


def _first_calls(network: nn.Module, ends: list[str], input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return the number of stages that had ended when each module was first called, by its name."""
    modules = dict(network.named_modules())
    ended: list[str] = []
    calls: dict[str, int] = {}

    def begin(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            calls.setdefault(name, len(ended))

        return hook

    def end(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            if name not in ended:
                ended.append(name)

        return hook

    handles = [module.register_forward_pre_hook(begin(name)) for name, module in modules.items()]
    handles += [modules[name].register_forward_hook(end(name)) for name in ends]
    try:
        run_once(network, network, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    for name in modules:  # outer ones come first
        calls.setdefault(name, calls.get(name.rpartition(".")[0], 0))
    return calls
