"""Pretrained weights: files of tensors, and the description of torchvision's weights."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lineage.data.images import DataSpec
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import counted, first_line, text_digest
from lineage.models.networks import TIMM

PRETRAINED = "DEFAULT"
"""Name of the weights that torchvision or timm lists first for a network."""

# torchvision's auxiliary classifiers, which ``build_torchvision`` leaves out
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_PICKLED = (b"PK", b"\x80")


def describe_weights(name: str, weights: str) -> DataSpec:
    """Describe the data that weights of torchvision or timm were trained on, from their metadata.

    The data set is named after the weights. Its digest covers the description alone, not the images.

    Args:
        name: Network, as ``torchvision:NAME`` or ``timm:NAME``.
        weights: Name of the weights, such as ``IMAGENET1K_V1`` or ``DEFAULT``.

    Raises:
        RecipeError: If there is no such model or weights, or timm does not name their classes.
    """
    described = (_describe_timm if name.startswith(TIMM) else _describe_torchvision)(name, weights)
    description = json.dumps(described.to_json(), sort_keys=True)
    return replace(described, digest=text_digest(description))


def _describe_torchvision(name: str, weights: str) -> DataSpec:
    from lineage.models.torchvision import known_weights, torchvision_options

    torchvision_options(name)  # refuses names that do not exist
    entry = known_weights(name, weights)
    preset = entry.transforms()
    return DataSpec(
        name=f"{name}/{entry.name}",
        class_names=tuple(entry.meta["categories"]),
        superclasses=None,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        input_shape=(len(preset.mean), preset.crop_size[0], preset.crop_size[0]),
        digest="",
    )


def _describe_timm(name: str, weights: str) -> DataSpec:
    from lineage.models.timm_networks import describe_timm

    return describe_timm(name, weights)


def read_state(file: Path, trust_pickle: bool | None = False) -> dict[str, Tensor]:
    """Read the tensors, by name, from a file of weights.

    Args:
        file: File in the format of safetensors, or of ``torch.save``, which is pickle.
        trust_pickle: Whether to read pickle, which runs any code that the file contains; None where nobody
            can ask for it.

    Raises:
        NotFoundError: If there is no such file.
        IntegrityError: If the file is pickled and not trusted, or damaged.
    """
    if not file.is_file():
        raise NotFoundError(
            f"Weights must be a file, or a name that torchvision or timm gives them, but '{file}' is neither;"
            " correct it."
        )
    with file.open("rb") as content:
        pickled = content.read(2).startswith(_PICKLED)
    if not pickled:
        try:
            return load_file(file)
        except SafetensorError as error:
            raise IntegrityError(f"'{file}' must hold safetensors, but does not: {error}.") from error
    if not trust_pickle:
        trust = "" if trust_pickle is None else ", or add --trust-pickle if you trust its author"
        raise IntegrityError(
            f"Weights must be safetensors, but '{file}' is pickled, and reading it could run any code; save"
            f" it with safetensors.torch.save_file{trust}."
        )
    return _unpickle(file)


def strip_prefix(
    state: Mapping[str, Tensor], prefix: str, setting: str = "--strip-prefix"
) -> dict[str, Tensor]:
    """Return tensors by their names without a prefix, such as the ``module.`` of DistributedDataParallel.

    Raises:
        UsageError: If a name does not begin with it.
    """
    other = next((name for name in state if not name.startswith(prefix)), None)
    if other is not None:
        raise UsageError(
            f"Every name in the file of weights must begin with '{prefix}' to lose it, but '{other}' does"
            f" not; correct {setting}."
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def original_names(network: nn.Module) -> dict[str, str]:
    """Return the name that each tensor has in the library of the network, by its name in the state dict."""
    names = getattr(network, "original_names", None)
    found: dict[str, str] = names() if callable(names) else {name: name for name in network.state_dict()}
    return found


def fit_state(
    network: nn.Module,
    state: Mapping[str, Tensor],
    name: str,
    *,
    new_head_for: int | None = None,
    setting: str = "--strip-prefix ",
) -> int | None:
    """Load ``state`` into ``network``, with the names of ``network`` or of its library's own model.

    Args:
        network: Network, as ``build_network`` returns it.
        state: All parameters and buffers, by name.
        name: Name of the network in error messages.
        new_head_for: Number of classes of a network that keeps its own last layer if ``state`` has another
            number; None to refuse that.
        setting: Setting that strips a prefix, in error messages.

    Returns:
        Number of classes of ``state`` if the last layer was kept, else None.

    Raises:
        UsageError: If names or shapes of the tensors do not match the network.
    """
    originals = original_names(network)
    ours = {original: own for own, original in originals.items()} | {own: own for own in originals}
    renamed = {ours.get(key, key): value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    missing, unknown = shapes.keys() - renamed.keys(), renamed.keys() - shapes.keys()
    if missing or unknown:
        problems = [
            f"{verb} {counted(len(names), noun)} ({_some(names)})"
            for names, verb, noun in ((missing, "miss", "name"), (unknown, "have", "other name"))
            if names
        ]
        raise UsageError(
            f"The weights must have the {len(shapes)} names of network '{name}', but"
            f" {' and '.join(problems)}; {_remedy(state, [*ours], setting)}."
        )
    others = [key for key, shape in shapes.items() if tuple(renamed[key].shape) != shape]
    heads = [
        len(renamed[key])
        for key in others
        if shapes[key][:1] == (new_head_for,) and shapes[key][1:] == tuple(renamed[key].shape[1:])
    ]
    if others and (len(heads) < len(others) or len(set(heads)) > 1):
        first = others[0]
        raise UsageError(
            f"The weights must be those of network '{name}' for the classes of the data, but"
            f" {counted(len(others), 'tensor')} have another shape ({_some(others)}): that of '{first}' is"
            f" {list(renamed[first].shape)}, not {list(shapes[first])}; name the data that they were trained"
            " on, or another network."
        )
    network.load_state_dict(network.state_dict() | {key: renamed[key] for key in shapes if key not in others})
    return heads[0] if heads else None


def _some(names: Iterable[str]) -> str:
    """Return the first three of some names."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (", …" if len(ordered) > 3 else "")


def _remedy(state: Mapping[str, Tensor], known: Collection[str], setting: str) -> str:
    """Return what to do about names that differ: to strip what all begin with, if that helps."""
    name = next(iter(state), "")
    own = next((one for one in sorted(known, key=len, reverse=True) if name.endswith(f".{one}")), "")
    prefix = name.removesuffix(own) if own else ""
    if prefix and all(key.startswith(prefix) for key in state):
        return f"every name begins with '{prefix}': leave it out with {setting}{prefix}"
    return "name the network that they are of"


def _unpickle(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as content:  # given a path, torch would go by its suffix and read safetensors
            loaded = torch.load(content, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling can raise any error
        reason = first_line(error)
        raise IntegrityError(f"'{file}' must be a file of torch.save, but is not: {reason}.") from error
    state = loaded.state_dict() if isinstance(loaded, nn.Module) else loaded
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise IntegrityError(
            f"'{file}' must hold a module or its state_dict, but holds {type(loaded).__name__}; save that"
            " alone."
        )
    return dict(state)
