"""Audits of versions: metrics of the runs that trained them, and a tag that a family's readers see."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage

from lineage.errors import NotFoundError
from lineage.registry.family.family import Version
from lineage.registry.family.tags import AUDIT_TAG, AUDITED_TAG, audit_metrics
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.runs import metrics_now


@dataclass(frozen=True)
class Audit:
    """How well attacks tell which images trained a version's patriarch.

    Attributes:
        version: Version that was attacked.
        patriarch: Oldest generation of its line, whose training images are the members.
        num_members: Number of members in the audit.
        num_others: Number of images in it that trained no version of the line.
        num_shadows: Number of shadow successions.
        rates: By attack, ``auc``, ``tpr_at_fpr_0.01`` and ``tpr_at_fpr_0.001``; over shadows also the limits
            ``low_…`` and ``high_…`` of each.
    """

    version: Version
    patriarch: Version
    num_members: int
    num_others: int
    num_shadows: int
    rates: dict[str, dict[str, float]] = field(hash=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {
            "uri": self.version.uri,
            "generation": self.version.generation,
            "patriarch": self.patriarch.uri,
            "members": self.num_members,
            "others": self.num_others,
            "shadows": self.num_shadows,
            "rates": self.rates,
        }


def _is_active(client: MlflowClient, run_id: str) -> bool:
    """Return whether a run is there to be logged to; people delete runs in MLflow's UI."""
    with suppress(NotFoundError), translated_errors():
        return bool(client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    return False


@translated_errors()
def log_audits(audits: Sequence[Audit]) -> None:
    """Log each result as tags of its version, and as metrics ``audit_…`` of its run, if that is still there.

    A later result of the same attack takes the place of an earlier one. Whoever reads the family finds the
    rates among the version's metrics.
    """
    client = connect()
    for audit in audits:
        version = audit.version
        for attack, rates in audit.rates.items():
            tag = AUDIT_TAG + attack
            client.set_model_version_tag(version.name, str(version.version), tag, json.dumps(rates))
        if version.run_id and _is_active(client, version.run_id):
            metrics = metrics_now(audit_metrics(audit.rates), model_id=version.model_id)
            client.log_batch(version.run_id, metrics)
    for name in {audit.version.name for audit in audits}:
        client.set_registered_model_tag(name, AUDITED_TAG, datetime.now(UTC).isoformat())
