"""Pretrained weights: files of tensors, and the description of torchvision's weights."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lineage.data.images import DataSpec
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import first_line, text_digest
from lineage.models.torchvision import known_weights, torchvision_options

# torchvision's auxiliary classifiers, which ``build_torchvision`` leaves out
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_WRAPPERS = ("module.", "_orig_mod.")
_PICKLED = (b"PK", b"\x80")


def describe_torchvision(name: str, weights: str) -> DataSpec:
    """Describe the data that torchvision's ``weights`` were trained on, from torchvision's metadata.

    The data set is named after the weights. Its digest covers the description alone, not the images.

    Args:
        name: Network, as ``torchvision:NAME``.
        weights: Name of the weights, such as ``IMAGENET1K_V1`` or ``DEFAULT``.

    Raises:
        RecipeError: If torchvision has no such model or weights.
    """
    torchvision_options(name)  # refuses names that do not exist
    entry = known_weights(name, weights)
    preset = entry.transforms()
    described = DataSpec(
        name=f"{name}/{entry.name}",
        class_names=tuple(entry.meta["categories"]),
        superclasses=None,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        input_shape=(len(preset.mean), preset.crop_size[0], preset.crop_size[0]),
        digest="",
    )
    description = json.dumps(described.to_json(), sort_keys=True)
    return DataSpec(**vars(described) | {"digest": text_digest(description)})


def read_state(file: Path, trust_pickle: bool = False) -> dict[str, Tensor]:
    """Read the tensors, by name, from a file of weights.

    Args:
        file: File in the format of safetensors, or of ``torch.save``, which is pickle.
        trust_pickle: Whether to read pickle, which runs any code that the file contains.

    Raises:
        NotFoundError: If there is no such file.
        IntegrityError: If the file is pickled and not trusted, or damaged.
    """
    if not file.is_file():
        raise NotFoundError(
            f"Weights must be a file or a name of torchvision's weights, but '{file}' is neither; correct it."
        )
    with file.open("rb") as content:
        pickled = content.read(2).startswith(_PICKLED)
    if not pickled:
        try:
            return load_file(file)
        except SafetensorError as error:
            raise IntegrityError(f"'{file}' must hold safetensors, but does not: {error}.") from error
    if not trust_pickle:
        raise IntegrityError(
            f"Weights must be safetensors, but '{file}' is pickled, and reading it could run any code;"
            " save it with safetensors.torch.save_file, or add --trust-pickle if you trust its author."
        )
    return _unpickle(file)


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return tensors by their names without a prefix, such as the ``module.`` of DistributedDataParallel.

    Raises:
        UsageError: If a name does not begin with it.
    """
    other = next((name for name in state if not name.startswith(prefix)), None)
    if other is not None:
        raise UsageError(
            f"Every name in the file of weights must begin with '{prefix}' to lose it, but '{other}' does"
            " not; correct --strip-prefix."
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _wrappers(state: Mapping[str, Tensor]) -> str:
    """Return the prefix that wrappers of torch have put before every name; "" if there is none."""
    found = ""
    while prefix := next(
        (one for one in _WRAPPERS if state and all(name.startswith(found + one) for name in state)), ""
    ):
        found += prefix
    return found


def fit_state(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load ``state`` into ``network``, with the keys of ``network`` or of torchvision's original model.

    Args:
        network: Network, as ``build_network`` returns it.
        state: All parameters and buffers, by name.
        name: Name of the network in error messages.

    Raises:
        UsageError: If names or shapes of the tensors do not match the network.
    """
    ours = set(network.state_dict())
    prefix = _wrappers(state)
    if prefix and not any(name.startswith(prefix) for name in ours):
        raise UsageError(
            f"The weights must have the names of network '{name}', but every name begins with '{prefix}',"
            f" which DistributedDataParallel or torch.compile has added; add --strip-prefix {prefix}"
        )
    renamed = {_our_key(key, ours): tensor for key, tensor in state.items() if not key.startswith(_AUXILIARY)}
    unmatched = {key.rpartition(".")[0] for key in renamed.keys() - ours}
    if len(unmatched) == 1:  # torchvision's last layer, here ``classifier``
        last = f"{unmatched.pop()}."
        renamed = {
            key.replace(last, "classifier.", 1) if key not in ours else key: renamed[key] for key in renamed
        }
    try:
        network.load_state_dict(renamed)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"The weights must be those of network '{name}' for the classes of the data, but are not"
            f" ({reason}); name the data that they were trained on, or another network."
        ) from error


def _our_key(key: str, ours: Iterable[str]) -> str:
    """Return the key in ``ours`` for torchvision's ``key``, or ``key`` if there is none."""
    candidates = (f"backbone.{key}", key, f"backbone.{key.removeprefix('features.')}")
    return next((candidate for candidate in candidates if candidate in ours), key)


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
