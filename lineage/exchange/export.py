"""``lineage export``: a version as files that need no ``lineage`` and no registry."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lineage.errors import IntegrityError, UsageError, suggestion
from lineage.exchange.forms import Runner, write_config, write_onnx, write_program, write_weights
from lineage.exchange.hub import push_folder, require_repo, write_card
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version
from lineage.registry.flavor import load_version
from lineage.registry.store.artifacts import LoadedModel

Form = Literal["onnx", "pt2", "safetensors", "hub"]

HUB = "hub"
FORMS = {"onnx": write_onnx, "pt2": write_program, "safetensors": write_weights, HUB: write_weights}
"""Functions that write a form by its name; each returns the network that the files hold."""

TOLERANCE = 1e-4
"""Largest difference of an exported network's logits, as a share of the largest logit if that is above 1."""

_BATCHES = (1, 5)  # 2 is the batch that it was exported with


@dataclass(frozen=True)
class Export:
    """The outcome of ``export``.

    Attributes:
        version: Version that was exported.
        form: Form that it was exported in.
        folder: Folder with the files.
        files: Names of the files.
        difference: Largest difference of a logit between the files and the version, on the same pixels.
        pushed: Address of the repository that it was pushed to; "" if it was not.
    """

    version: Version
    form: str
    folder: Path
    files: tuple[str, ...]
    difference: float
    pushed: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {
            "uri": self.version.uri,
            "form": self.form,
            "folder": str(self.folder),
            "files": list(self.files),
            "difference": self.difference,
            "tolerance": TOLERANCE,
            "pushed": self.pushed,
        }


def export(
    uri: str,
    folder: str | Path,
    to: Form = "onnx",
    *,
    push: str | None = None,
    base_model: str | None = None,
) -> Export:
    """Write a version to a folder, in a form that is used without ``lineage`` and without a registry.

    What is written takes pixels in [0, 1] in batches of any size, and holds the class names. Its logits are
    compared with those of the version before the folder appears.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        folder: Folder to write, which must not exist yet.
        to: Form: ``onnx`` needs the extra of this name; ``pt2`` is a program of ``torch.export``;
            ``safetensors`` are the weights, with a file that builds the network; ``hub`` has a card as well,
            and the recipe.
        push: Repository of the Hugging Face Hub, ``OWNER/NAME``, to upload the form ``hub`` to.
        base_model: Repository of the teacher there, for the card.

    Returns:
        The files, and the largest difference of a logit.

    Raises:
        UsageError: If an argument has another form or no effect, the folder exists or cannot be written, an
            extra is missing, or the network cannot be exported in this form.
        NotFoundError: If the store does not hold the version.
        IntegrityError: If its files were altered, or the exported logits differ by more than 1e-4 of the
            largest.
        RegistryError: If the store or the hub cannot be reached; the folder is complete if it is the hub.

    Examples:
        >>> lineage.export("models:/digits@best", "digits-onnx").files
        ('config.json', 'model.onnx')
    """
    folder = Path(folder)
    if to not in FORMS:
        raise UsageError(
            f"A version must be exported as {', '.join(FORMS)}, but got '{to}'.{suggestion(to, FORMS)}"
        )
    for option, repo in (("--push", push), ("--base-model", base_model)):
        if repo is not None:
            if to != HUB:
                raise UsageError(f"{option} must come with --to hub, but got --to {to}; leave it out.")
            require_repo(option, repo)
    if folder.exists():
        raise UsageError(f"FOLDER must not exist yet, but '{folder}' does; delete it, or name another.")
    version = find_version(uri)
    model = load_version(version)
    with _writing(folder) as place:
        run = FORMS[to](model, place)
        difference = _require_same_logits(version, model, run)
        write_config(model, place, {"version": version.uri, "weights_sha256": version.weights_sha256})
        if to == HUB:
            write_card(version, model, place, base_model)
        files = tuple(sorted(path.name for path in place.iterdir() if path.is_file()))
    pushed = "" if push is None else push_folder(folder, push, f"Add {version.uri}")
    return Export(version, to, folder, files, difference, pushed)


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """Yield a folder to write in the block, which becomes ``folder`` at its end.

    Raises:
        UsageError: If it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=folder.parent) as place:
            inside = Path(place) / "files"
            inside.mkdir()
            yield inside
            inside.rename(folder)
    except OSError as error:
        raise UsageError(
            f"FOLDER must be writable, but '{folder}' is not ({error.strerror}); name another."
        ) from error


def _require_same_logits(version: Version, model: LoadedModel, run: Runner) -> float:
    """Return the largest difference of a logit, on batches of random pixels of several sizes.

    Raises:
        IntegrityError: If it is above the tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in _BATCHES:
        pixels = torch.rand(batch, *model.spec.input_shape, generator=generator)
        expected = model.logits(pixels)
        with torch.no_grad():
            difference = float((run(pixels) - expected).abs().max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise IntegrityError(
                f"The exported logits of {version.uri} must be its own within {allowed:.2g}, but differ by"
                f" {difference:.2g}; export it in another form."
            )
        largest = max(largest, difference)
    return largest
