"""Weights that ``lineage`` did not train: files of them, and what torchvision says of its own."""

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

# torchvision's auxiliary classifiers, which its builders drop and so do ours
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_PICKLED = (b"PK", b"\x80")


def describe_torchvision(name: str, weights: str) -> DataSpec:
    """What torchvision says of the data that its ``weights`` were trained on.

    The data set is named after the weights, and its digest is of these words alone: the images are elsewhere.

    Args:
        name: ``torchvision:NAME``.
        weights: Such as ``IMAGENET1K_V1`` or ``DEFAULT``.

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
    words = json.dumps(described.to_json(), sort_keys=True)
    return DataSpec(**vars(described) | {"digest": text_digest(words)})


def read_state(file: Path, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors, by name, in a file of weights.

    Args:
        file: In the format of safetensors; or of ``torch.save``, which is pickle.
        trust_pickle: Whether pickle may be read, which runs whatever code its writer put there.

    Raises:
        NotFoundError: If there is no such file.
        IntegrityError: If the file is pickled and not trusted, or damaged.
    """
    if not file.is_file():
        raise NotFoundError(f"Weights must be a file or a name of torchvision's, but '{file}' is neither.")
    with file.open("rb") as content:
        pickled = content.read(2).startswith(_PICKLED)
    if not pickled:
        try:
            return load_file(file)
        except SafetensorError as error:
            raise IntegrityError(f"'{file}' must hold safetensors, but does not: {error}.") from error
    if not trust_pickle:
        raise IntegrityError(
            f"Weights must be safetensors, but '{file}' is pickled, and reading it could run anybody's code;"
            " save it with safetensors.torch.save_file, or say --trust-pickle."
        )
    return _unpickle(file)


def fit_state(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load ``state`` into ``network``, whose keys may be ours or those of torchvision's own model.

    Args:
        network: What ``build_network`` gave.
        state: Every parameter and buffer.
        name: Of the network, for errors.

    Raises:
        UsageError: If the tensors are not those of the network.
    """
    ours = set(network.state_dict())
    renamed = {_our_key(key, ours): tensor for key, tensor in state.items() if not key.startswith(_AUXILIARY)}
    strangers = {key.rpartition(".")[0] for key in renamed.keys() - ours}
    if len(strangers) == 1:  # torchvision's last layer, which has a place of its own here
        last = f"{strangers.pop()}."
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
    """The key of ours that torchvision's ``key`` stands for; itself where none does."""
    candidates = (f"backbone.{key}", key, f"backbone.{key.removeprefix('features.')}")
    return next((candidate for candidate in candidates if candidate in ours), key)


def _unpickle(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as content:  # by its name, torch would take it for safetensors
            found = torch.load(content, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling raises whatever the file makes it raise
        reason = first_line(error)
        raise IntegrityError(f"'{file}' must be a file of torch.save, but is not: {reason}.") from error
    state = found.state_dict() if isinstance(found, nn.Module) else found
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise IntegrityError(
            f"'{file}' must hold a module or its state_dict, but holds {type(found).__name__}; save that"
            " alone."
        )
    return dict(state)
