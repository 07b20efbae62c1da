"""The files of one registered network: safetensors and JSON, no pickle and no code.

The layout of a folder::

    weights.safetensors   parameters and buffers; an ensemble has none of its own
    lineage.json          how to build the network; the data set's classes and normalisation
    recipe.json           the resolved recipe it was grown from, as it was given
    members/<i>/          of an ensemble that embeds its members: a folder like this one each
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lineage.data.datasets import DataSpec
from lineage.errors import IntegrityError, NotFoundError
from lineage.formats import file_digest, json_digest
from lineage.models.networks import build_network, options_without_weights
from lineage.registry.family.family import Member

SCHEMA = 1
ENSEMBLE = "ensemble"
WEIGHTS_FILE = "weights.safetensors"
STRUCTURE_FILE = "lineage.json"
RECIPE_FILE = "recipe.json"
MEMBERS_FOLDER = "members"


@dataclass(frozen=True)
class LoadedModel:
    """A network together with what is needed to use it.

    Attributes:
        network: In evaluation mode; takes normalised images (B, C, H, W), has ``features`` and gives logits.
        network_name: As in a recipe.
        network_options: Of its builder.
        spec: Class names, normalisation and digest of the data it was trained on.
        recipe: The resolved recipe as JSON, or "" for a network that no recipe made.
        members: Of an ensemble, whose network is their mean.
        copies: The members' own models, where the ensemble embeds them.
    """

    network: nn.Module
    network_name: str
    network_options: Mapping[str, Any]
    spec: DataSpec
    recipe: str = ""
    members: tuple[Member, ...] = ()
    copies: "tuple[LoadedModel, ...]" = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.spec.class_names

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel's pixel values in [0, 1]: subtracted before the network."""
        return self.spec.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel's pixel values in [0, 1]: divided by before the network."""
        return self.spec.std

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (B, classes) for pixel values in [0, 1]: float32 (B, C, H, W), on the network's device."""
        mean, std = (torch.tensor(v, device=pixels.device).view(-1, 1, 1) for v in (self.mean, self.std))
        with torch.inference_mode():
            logits: Tensor = self.network((pixels - mean) / std)
        return logits


def write_files(model: LoadedModel, folder: Path) -> None:
    """Write ``model`` to ``folder`` in the layout above."""
    folder.mkdir(parents=True, exist_ok=True)
    network: dict[str, Any] = {"name": model.network_name}
    if model.members:
        network["members"] = [asdict(member) for member in model.members]
        for number, copy in enumerate(model.copies):
            write_files(copy, folder / MEMBERS_FOLDER / str(number))
    else:
        network["options"] = options_without_weights(model.network_name, model.network_options)
        (folder / WEIGHTS_FILE).write_bytes(_serialized(model.network))
    structure = {"schema": SCHEMA, "network": network, "data": model.spec.to_json()}
    (folder / STRUCTURE_FILE).write_text(json.dumps(structure, indent=1))
    if model.recipe:
        (folder / RECIPE_FILE).write_text(model.recipe)


@dataclass(frozen=True)
class Structure:
    """What ``lineage.json`` holds.

    Attributes:
        name: Of the network, or ``ensemble``.
        options: Of its builder.
        spec: Of the data.
        members: Of an ensemble.
    """

    name: str
    options: dict[str, Any]
    spec: DataSpec
    members: tuple[Member, ...]


def read_structure(folder: Path) -> Structure:
    """How the model in ``folder`` is built.

    Raises:
        NotFoundError: If the file is missing.
        IntegrityError: If a later version of the tool wrote it, or it is damaged.
    """
    try:
        structure = json.loads(_file(folder, STRUCTURE_FILE).read_text())
        schema = int(structure["schema"])
        if schema > SCHEMA:
            raise IntegrityError(
                f"The model's schema must be at most {SCHEMA}, but is {schema}; update lineage."
            )
        network, data = structure["network"], structure["data"]
        members = tuple(Member(**member) for member in network.get("members", ()))
        options = {} if members else network["options"]
        return Structure(network["name"], options, DataSpec.from_json(data), members)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{STRUCTURE_FILE} must be what lineage wrote, but is not ({error}); restore it."
        ) from error


def read_network(folder: Path, structure: Structure) -> nn.Module:
    """The network in ``folder``, which is no ensemble, on the CPU and in evaluation mode.

    Raises:
        NotFoundError: If the weights are missing.
        IntegrityError: If they are damaged or do not fit the structure.
    """
    weights_file = _file(folder, WEIGHTS_FILE)
    name, spec = structure.name, structure.spec
    network = build_network(name, spec.num_classes, spec.input_shape, structure.options)
    try:
        network.load_state_dict(load_file(weights_file))
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise IntegrityError(
            f"The weights must fit network '{name}', but do not ({reason}); restore its files."
        ) from error
    return network.to(memory_format=torch.channels_last).eval()


def read_recipe(folder: Path) -> str:
    """The recipe kept in ``folder``, or ""."""
    recipe = folder / RECIPE_FILE
    return recipe.read_text() if recipe.is_file() else ""


def weights_digest(weights: nn.Module | Sequence[Member] | Path) -> str:
    """SHA-256, in hex, of a network's weights, of an ensemble's members, or of what lies in a folder.

    Raises:
        NotFoundError: If the folder holds no model.
        IntegrityError: If its files are damaged.
    """
    if isinstance(weights, nn.Module):
        return hashlib.sha256(_serialized(weights)).hexdigest()
    if isinstance(weights, Path):
        if (weights / STRUCTURE_FILE).is_file():
            members = read_structure(weights).members
            if members:
                return weights_digest(members)
        return file_digest(_file(weights, WEIGHTS_FILE))
    pinned = [[member.weights_sha256, member.weight] for member in weights]
    return json_digest(pinned)


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise NotFoundError(
            f"A model of lineage must hold {name}, but this one does not; was it logged by lineage?"
        )
    return path


def _serialized(network: nn.Module) -> bytes:
    """The weights file: safetensors sorts by type and name, so equal weights give equal bytes.

    Copies, since safetensors refuses tensors that share memory, as tied weights do.
    """
    values = network.state_dict().items()
    return save({name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in values})
