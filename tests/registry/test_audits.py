from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.display.page_data import family_document
from lineage.errors import IntegrityError
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version, read_family
from lineage.registry.family.tags import AUDITED_TAG
from lineage.registry.store.audits import Audit, log_audits

RATES = {"auc": 0.75, "tpr_at_fpr_0.01": 0.25, "tpr_at_fpr_0.001": 0.125, "low_auc": 0.5, "high_auc": 1.0}
LOGGED = {f"audit_lira_{name}": rate for name, rate in RATES.items()}


@pytest.fixture
def version(registry: Any, add_version: Callable[..., Version], log_one: Callable[..., Any]) -> Version:
    """A version with a logged model of its own, to which other tests' numbers do not stick."""
    return add_version(logged=log_one())


def result_of(version: Version, **rates: dict[str, float]) -> Audit:
    return Audit(version, version, 100, 100, 4, rates)


def test_rates_are_metrics_of_the_version_its_run_and_its_logged_model(version: Version) -> None:
    log_audits([result_of(version, lira=RATES)])
    assert find_version(version.uri).metrics == {"test_accuracy": 0.5} | LOGGED
    client = MlflowClient()
    assert LOGGED.items() <= client.get_run(version.run_id).data.metrics.items()
    logged = client.get_logged_model(version.model_id).metrics or ()
    assert LOGGED.items() <= {metric.key: metric.value for metric in logged}.items()
    assert client.get_registered_model(version.name).tags[AUDITED_TAG] > "2026"
    # The model stays an output of the run that trained it: as its input it would descend from itself
    inputs = client.get_run(version.run_id).inputs
    assert version.model_id not in [given.model_id for given in inputs.model_inputs or ()]


def test_later_result_of_an_attack_replaces_the_earlier_and_leaves_others(version: Version) -> None:
    log_audits([result_of(version, lira=RATES, threshold={"auc": 0.625})])
    log_audits([result_of(version, threshold={"auc": 0.5625})])
    metrics = find_version(version.uri).metrics
    assert metrics == {"test_accuracy": 0.5, "audit_threshold_auc": 0.5625} | LOGGED


def test_page_of_the_family_shows_the_rates(version: Version) -> None:
    log_audits([result_of(version, lira=RATES)])
    document = family_document(read_family(version.name))
    place = [metric["name"] for metric in document["metrics"]].index("audit_lira_auc")
    assert document["nodes"][0]["values"][place] == 0.75
    assert document["metrics"][place]["sign"] == " %"


def test_altered_rates_are_refused(version: Version) -> None:
    tag = ("lineage.audit.lira", '{"auc": "high"}')
    MlflowClient().set_model_version_tag(version.name, str(version.version), *tag)
    with pytest.raises(IntegrityError, match=r"one is missing or altered: 'audit\.lira\.auc'"):
        find_version(version.uri)
