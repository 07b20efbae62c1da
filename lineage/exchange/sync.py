"""Growing without a registry: an outbox on this machine, and ``lineage sync``, which empties it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineage.exchange.pack import pack
from lineage.exchange.unpack import Unpacking, unpack
from lineage.registry.store.connection import check_store, using_store
from lineage.registry.store.progress import read_growing
from lineage.registry.store.search import search_families
from lineage.training.checkpoints import state_home

_FOLDER, _DATABASE = "outbox", "mlflow.db"


@dataclass(frozen=True)
class Syncing:
    """The outcome of ``sync``.

    Attributes:
        families: Versions registered in each family, in the order in which the families were begun.
        growing: Families with a generation that is not finished; the outbox stays for them.
    """

    families: tuple[Unpacking, ...]
    growing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {"families": [one.to_json() for one in self.families], "growing": list(self.growing)}


@contextmanager
def using_outbox() -> Iterator[None]:
    """Let this process grow into an sqlite store in ``$LINEAGE_HOME/outbox``, in place of the registry."""
    _outbox().mkdir(parents=True, exist_ok=True, mode=0o700)
    with using_store(_uri()):
        yield


def sync() -> Syncing:
    """Register all families of the outbox in the registry in use, and delete the outbox.

    Versions whose key the registry holds already are left out, so that it may be repeated after an interrupt.

    Raises:
        IntegrityError: If the registry holds a key with other weights; the outbox stays as it is.
        RegistryError: If the registry cannot be reached or written.
    """
    if not (_outbox() / _DATABASE).is_file():
        return Syncing((), ())
    check_store()
    with tempfile.TemporaryDirectory() as place:
        with using_store(_uri()):
            models = sorted(search_families(), key=lambda model: int(model.creation_timestamp))
            growing = tuple(model.name for model in models if read_growing(model.name))
            packed = [pack(model.name, Path(place) / str(i)).file for i, model in enumerate(models)]
        families = tuple(unpack(file, merge=True) for file in packed)
    if not growing:
        shutil.rmtree(_outbox())
    return Syncing(families, growing)


def _outbox() -> Path:
    return state_home().resolve() / _FOLDER


def _uri() -> str:
    return f"sqlite:///{_outbox() / _DATABASE}"
