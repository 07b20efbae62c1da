"""Tags of a model version and their types; imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, Json, TypeAdapter

TAG = "lineage."
AUDIT_TAG = TAG + "audit."
"""Beginning of the tags with what attacks found, one each, which come after registration."""
AUDITED_TAG = TAG + "audited"
"""Tag of a registered model: time of the last audit of its versions."""

_MEMBER_TAG = TAG + "member."


@dataclass(frozen=True)
class Member:
    """One member of an ensemble, pinned as it was when the ensemble was registered.

    Attributes:
        id: ``name/version`` of the member.
        model_id: MLflow's ``m-…`` id of its logged model.
        weights_sha256: SHA-256 of its weights.
        weight: Factor of its probabilities in the mean; the weights of all members sum to 1.
        files_sha256: Digest of all its files; "" if it was registered before there was one.
    """

    id: str
    model_id: str
    weights_sha256: str
    weight: float
    files_sha256: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"a member's weight must be a finite number from 0, not {self.weight}")


@dataclass(frozen=True)
class Tags:
    """Tags of a version as they are stored, without their prefix; those of members by number."""

    schema: int
    kind: Literal["generation", "ensemble", "adopted"]
    generation: Annotated[int, Field(ge=0)]
    teacher: str | None = None
    root: str | None = None
    objective: str = ""
    seed: int = 0
    recipe_digest: str = ""
    key: str = ""
    metrics: Json[dict[str, float]] = field(default_factory=dict)
    weights_sha256: str = ""
    teacher_model_id: str = ""
    teacher_sha256: str = ""
    files_sha256: str = ""
    code: Json[dict[str, dict[str, str]]] = field(default_factory=dict)
    network: str = ""
    member: dict[int, Json[Member]] = field(default_factory=dict)
    audit: dict[str, Json[dict[str, float]]] = field(default_factory=dict)


_TAGS = TypeAdapter(Tags)


def read_tags(stored: Mapping[str, str]) -> Tags:
    """Return the tags of a version by type.

    Raises:
        ValueError: If a required one is missing, or one is altered; it names the tag.
    """
    named = {tag.removeprefix(TAG): value for tag, value in stored.items() if tag.startswith(TAG)}
    return _TAGS.validate_python(
        named | {"member": _by_name(stored, _MEMBER_TAG), "audit": _by_name(stored, AUDIT_TAG)}
    )


def audit_metrics(rates: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return rates of attacks under the names that they have among a version's metrics."""
    return {f"audit_{attack}_{name}": rate for attack, found in rates.items() for name, rate in found.items()}


def _by_name(stored: Mapping[str, str], beginning: str) -> dict[str, str]:
    """Return the tags with that beginning, without it."""
    return {tag.removeprefix(beginning): value for tag, value in stored.items() if tag.startswith(beginning)}
