"""Leases on keys, as tags of a family's experiment: the holder of a key and its signs of life."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from mlflow import MlflowClient
from pydantic import TypeAdapter

from lineage.errors import NotFoundError
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import translated_errors

LEASE_TAG = TAG + "lease."


@dataclass(frozen=True)
class Lease:
    """The contents of a tag.

    Attributes:
        owner: Random word that only the owner knows; it is kept beside the owner's checkpoint.
        holder: Name of the owner's process for people, such as ``process 7 on host``.
        grace: Seconds without a change of this value after which the owner counts as dead.
        count: Number of signs of life so far.
    """

    owner: str
    holder: str
    grace: float
    count: int = 0


_LEASE = TypeAdapter(Lease)


@translated_errors()
def read_lease(experiment_id: str, key: str) -> Lease | None:
    """Return the lease on ``key``; None if there is none, or its tag was altered."""
    text = MlflowClient().get_experiment(experiment_id).tags.get(LEASE_TAG + key)
    with suppress(ValueError):
        return None if text is None else _LEASE.validate_json(text)
    return None


@translated_errors()
def write_lease(experiment_id: str, key: str, lease: Lease) -> None:
    """Set the lease on ``key``, in place of any other."""
    MlflowClient().set_experiment_tag(experiment_id, LEASE_TAG + key, json.dumps(asdict(lease)))


def delete_lease(experiment_id: str, key: str) -> None:
    """Delete the lease on ``key``, if there is one."""
    with suppress(NotFoundError), translated_errors():
        MlflowClient().delete_experiment_tag(experiment_id, LEASE_TAG + key)
