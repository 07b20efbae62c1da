"""The files of one registered network: safetensors and JSON, no pickle and no code.

The layout of a folder::

    weights.safetensors   parameters and buffers; an ensemble has none of its own
    lineage.json          how to build the network; classes and normalisation of the data
    recipe.json           resolved recipe that it was grown from
    predictions.json      what it predicted on its test part; see ``predictions_file.py``
    members/<i>/          a folder like this one for each member, in an ensemble that embeds its members
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lineage.data.images import DataSpec
from lineage.errors import IntegrityError, LineageError, NotFoundError
from lineage.formats import file_digest, first_line, json_digest, read_problem
from lineage.models.networks import build_network, options_without_weights
from lineage.registry.family.tags import Member
from lineage.registry.store.files import WEIGHTS_FILE
from lineage.registry.store.predictions_file import PREDICTIONS_FILE
from lineage.registry.store.runs import RECIPE_FILE

SCHEMA = 1
ENSEMBLE = "ensemble"
STRUCTURE_FILE = "lineage.json"
MEMBERS_FOLDER = "members"


@dataclass(frozen=True)
class LoadedModel:
    """A network together with what is needed to use it.

    Attributes:
        network: Module in evaluation mode; takes normalised images (B, C, H, W), returns logits.
        network_name: Name as in a recipe.
        network_options: Options of the network's builder.
        spec: Class names, normalisation and digest of the data it was trained on.
        recipe: Resolved recipe as JSON, or "" for a network that no recipe made.
        members: Members of an ensemble, whose network is their mean.
        copies: Models of the members, if the ensemble embeds them.
        predictions: Text of ``predictions.json``, to be written beside the weights; "" if the model was not
            measured, or was loaded, since loading does not read it.
    """

    network: nn.Module
    network_name: str
    network_options: Mapping[str, Any]
    spec: DataSpec
    recipe: str = ""
    members: tuple[Member, ...] = ()
    copies: "tuple[LoadedModel, ...]" = ()
    predictions: str = ""

    def __repr__(self) -> str:
        spec = self.spec
        shape = "×".join(map(str, spec.input_shape))
        return f"<LoadedModel {self.network_name}: {shape} to {spec.num_classes} classes of {spec.name}>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.spec.class_names

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in pixel values in [0, 1], which is subtracted before the network."""
        return self.spec.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in pixel values in [0, 1], by which they are divided."""
        return self.spec.std

    def logits(self, pixels: Tensor) -> Tensor:
        """Return logits (B, classes) of pixel values in [0, 1], float32 (B, C, H, W) on the same device."""
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
    if model.predictions:
        (folder / PREDICTIONS_FILE).write_text(model.predictions)


@dataclass(frozen=True)
class Structure:
    """The contents of ``lineage.json``.

    Attributes:
        name: Name of the network, or ``ensemble``.
        options: Options of the network's builder.
        spec: Description of the data.
        members: Members of an ensemble.
    """

    name: str
    options: dict[str, Any]
    spec: DataSpec
    members: tuple[Member, ...]


@dataclass(frozen=True)
class _NetworkJson:
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    members: tuple[Member, ...] = ()


@dataclass(frozen=True)
class _SchemaJson:
    schema: int


@dataclass(frozen=True)
class _StructureJson:
    network: _NetworkJson
    data: DataSpec


_SCHEMA = TypeAdapter(_SchemaJson)
_STRUCTURE = TypeAdapter(_StructureJson)


def read_structure(folder: Path) -> Structure:
    """Read how the model in ``folder`` is built.

    Raises:
        NotFoundError: If the file is missing.
        IntegrityError: If a later version of the tool wrote it, or it is damaged.
    """
    text = _file(folder, STRUCTURE_FILE).read_bytes()
    try:
        schema = _SCHEMA.validate_json(text).schema
        if schema > SCHEMA:
            raise IntegrityError(
                f"{STRUCTURE_FILE}'s schema must be at most {SCHEMA}, but is {schema}; update lineage."
            )
        found = _STRUCTURE.validate_json(text)
        _require_consistent(found.data)
    except ValueError as error:
        raise IntegrityError(
            f"{STRUCTURE_FILE} must be what lineage wrote, but is not ({read_problem(error)}); restore it."
        ) from error
    network = found.network
    return Structure(network.name, network.options, found.data, network.members)


def _require_consistent(spec: DataSpec) -> None:
    """Raise a ValueError unless the fields of a description fit each other."""
    channels = spec.input_shape[0]
    if min(spec.input_shape) < 1 or not spec.class_names:
        raise ValueError(f"'data': {spec.input_shape} is no shape of images, or there are no classes")
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) != channels or not all(map(math.isfinite, values)):
            raise ValueError(f"'data.{name}': there must be {channels} finite numbers, not {list(values)}")
    if min(spec.std) <= 0:
        raise ValueError(f"'data.std': numbers must be positive, not {list(spec.std)}")
    if spec.superclasses is not None and len(spec.superclasses) != spec.num_classes:
        raise ValueError(
            f"'data.superclasses': there must be {spec.num_classes}, not {len(spec.superclasses)}"
        )


def read_network(folder: Path, structure: Structure) -> nn.Module:
    """Load the network in ``folder``, on the CPU and in evaluation mode; an ensemble has none of its own.

    Raises:
        NotFoundError: If the weights are missing.
        IntegrityError: If they are damaged or do not fit the structure.
        RecipeError: If the network comes from a package that is not installed.
    """
    weights_file = _file(folder, WEIGHTS_FILE)
    name, spec = structure.name, structure.spec
    try:
        network = build_network(name, spec.num_classes, spec.input_shape, structure.options)
    except LineageError:
        raise
    except Exception as error:  # options of other types make a builder raise anything
        raise IntegrityError(
            f"{STRUCTURE_FILE} must have options that network '{name}' can be built with, but has"
            f" {structure.options} ({first_line(error)}); restore it."
        ) from error
    try:
        network.load_state_dict(load_file(weights_file))
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise IntegrityError(
            f"The weights must fit network '{name}', but do not ({reason}); restore its files."
        ) from error
    return network.to(memory_format=torch.channels_last).eval()


def read_recipe(folder: Path) -> str:
    """Read the recipe in ``folder``; "" if there is none.

    Raises:
        IntegrityError: If the file is damaged.
    """
    recipe = folder / RECIPE_FILE
    try:
        return recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{RECIPE_FILE} must be what lineage wrote, but is no text ({error}); restore it."
        ) from error


def weights_digest(weights: nn.Module | Sequence[Member] | Path) -> str:
    """Return the SHA-256, in hex, of a network's weights, of an ensemble's members, or of a model's folder.

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


def require_numbers(network: nn.Module, subject: str) -> None:
    """Refuse weights that are not numbers, whose predictions would be none either.

    Infinities are allowed in buffers alone, as attention masks have them.

    Raises:
        IntegrityError: If a parameter is not finite, or a buffer holds NaN.
    """
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if not value.is_floating_point():
            continue
        is_bad = value.isnan() if not isinstance(value, nn.Parameter) else ~value.isfinite()
        if is_bad.any():
            found = value[is_bad].flatten()[0].item()
            raise IntegrityError(
                f"The weights of {subject} must be finite numbers, but '{name}' holds {found}; train or adopt"
                " the network again."
            )


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise NotFoundError(
            f"A model of lineage must hold {name}, but this one does not; was it logged by lineage?"
        )
    return path


def _serialized(network: nn.Module) -> bytes:
    """Return the contents of the weights file.

    safetensors sorts by type and name, so equal weights give equal bytes. Tensors are copied, since it
    refuses those that share memory, as tied weights do.
    """
    values = network.state_dict().items()
    return save({name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in values})
