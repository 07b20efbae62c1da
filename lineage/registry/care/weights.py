"""The check of a family's weights: whether files are those that were registered, and hold numbers.

Files with the digest that they were registered with are not loaded, and torch is not imported for them: the
import takes longer than the check.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
from safetensors import SafetensorError, deserialize

from lineage.errors import AlteredFilesError, IntegrityError, LineageError, NotFoundError, RegistryError
from lineage.formats import file_digest
from lineage.registry.care.checks import Finding
from lineage.registry.family.family import Family, Version
from lineage.registry.store.connection import translated_errors
from lineage.registry.store.files import WEIGHTS_FILE, files_digest

_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""Type of the bits, and mask of the exponent, which NaN and infinities fill with ones, by type."""
_WITHOUT_EXPONENT = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"})


def check_weights(family: Family) -> Iterator[Finding]:
    """Find files that are missing or altered, and weights that are no numbers.

    Those that versions share are pulled once. Versions without a digest of all files must load as well; no
    network is run.
    """
    problems: dict[tuple[str, ...], tuple[str, str] | None] = {}
    for version in family:
        files = (version.model_id, version.weights_sha256, version.files_sha256)
        if files not in problems:
            problems[files] = None if _is_as_registered(version) else _loading_problem(version)
        problem = problems[files]
        if problem is not None:
            check, sentence = problem
            remedy = "restore the artifacts from a backup"
            if check == "not-finite":
                remedy = "remove the version, and train or adopt it again"
            yield Finding(check, version.uri, sentence, f"cannot be completed: {remedy}")


def _is_as_registered(version: Version) -> bool:
    """Return whether all files of one network have their digest and all weights are finite.

    False where that cannot be told without loading: for an ensemble, for a version without a digest of all
    files, for infinities, which buffers may have, and for types of numbers that are not known here.
    """
    if not version.files_sha256 or version.members:
        return False
    try:
        with translated_errors(), tempfile.TemporaryDirectory() as place:
            folder = Path(mlflow.artifacts.download_artifacts(f"models:/{version.model_id}", dst_path=place))
            weights = folder / WEIGHTS_FILE
            return (
                files_digest(folder) == version.files_sha256
                and weights.is_file()
                and file_digest(weights) == version.weights_sha256
                and are_finite(weights)
            )
    except (IntegrityError, NotFoundError):  # loading says what is wrong
        return False


def are_finite(weights: Path) -> bool:
    """Return whether a safetensors file holds finite numbers alone, of types that are known here."""
    try:
        tensors = deserialize(weights.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError:
        return False
    for _, tensor in tensors:
        if tensor["dtype"] in _WITHOUT_EXPONENT:
            continue
        if tensor["dtype"] not in _EXPONENTS:
            return False
        kind, exponent = _EXPONENTS[tensor["dtype"]]
        mask = np.dtype(kind).type(exponent)
        if ((np.frombuffer(tensor["data"], kind) & mask) == mask).any():
            return False
    return True


def _loading_problem(version: Version) -> tuple[str, str] | None:
    """Return the name of the check that fails, and what is wrong; None if nothing is."""
    from lineage.registry.flavor import load_version  # imports torch, which no other check needs
    from lineage.registry.store.artifacts import require_numbers

    check = "altered-weights"
    try:
        network = load_version(version).network
        check = "not-finite"
        require_numbers(network, version.uri)
    except RegistryError:  # the store does not answer, which says nothing about the weights
        raise
    except NotFoundError as error:
        return "missing-weights", str(error).rstrip(".")
    except AlteredFilesError as error:
        return "altered-files", str(error).rstrip(".")
    except LineageError as error:
        return check, str(error).rstrip(".")
    return None
