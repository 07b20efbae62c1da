from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import lineage
from lineage.errors import UsageError
from lineage.evaluation.evaluate import score_logits

NAMES = {
    "accuracy",
    "top5_accuracy",
    "calibration_error",
    "cross_entropy",
    "top_probability",
    "entropy",
    "top_score_difference",
    "secondary_mass",
}


def evaluate(model: Any, data: Any, targets: Any, **config: Any) -> dict[str, float]:
    result = mlflow.models.evaluate(
        model,
        data,
        targets=targets,
        model_type="classifier",
        evaluators="lineage",
        evaluator_config=config,
    )
    return dict(result.metrics)


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


@pytest.fixture(scope="module")
def labels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 6, 40)


def test_function_that_gives_logits_is_measured(
    home: Path, logits: torch.Tensor, labels: np.ndarray[Any, Any]
) -> None:
    rows = np.arange(40).reshape(-1, 1)
    with mlflow.start_run() as run:
        found = evaluate(lambda indices: logits[np.asarray(indices)[:, 0]].numpy(), rows, labels)
    assert found == pytest.approx(score_logits(logits, torch.tensor(labels), 5))
    assert set(found) == NAMES
    assert MlflowClient().get_run(run.info.run_id).data.metrics == pytest.approx(found)


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # MLflow's
def test_probabilities_give_what_their_logits_give(
    home: Path, logits: torch.Tensor, labels: np.ndarray[Any, Any]
) -> None:
    table = pd.DataFrame({"probabilities": logits.softmax(1).tolist(), "label": labels})
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            data=table,
            targets="label",
            predictions="probabilities",
            model_type="classifier",
            evaluators="lineage",
            evaluator_config={"top_k": 3},
        )
    assert result.metrics == pytest.approx(score_logits(logits, torch.tensor(labels), 3), abs=1e-9)


def test_superclasses_add_their_share(home: Path, logits: torch.Tensor, labels: np.ndarray[Any, Any]) -> None:
    rows = np.arange(40).reshape(-1, 1)
    superclasses = [0, 0, 1, 1, 2, 2]
    with mlflow.start_run():
        found = evaluate(
            lambda indices: logits[np.asarray(indices)[:, 0]].numpy(), rows, labels, superclasses=superclasses
        )
    assert set(found) == NAMES | {"superclass_share"}


def test_classifier_of_another_library_is_measured_by_class_names(home: Path) -> None:
    iris = load_iris()
    names = iris.target_names[iris.target]
    fitted = LogisticRegression(max_iter=500).fit(iris.data, names)
    with mlflow.start_run():
        found = evaluate(fitted.predict_proba, iris.data, names, class_names=list(fitted.classes_), top_k=3)
    assert found["accuracy"] == pytest.approx(fitted.score(iris.data, names))
    assert found["secondary_mass"] == pytest.approx(1 - found["top_probability"])


def test_registered_version_is_measured_on_flat_rows(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    pixels = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    targets = np.array([0, 1, 1, 0, 1])
    logits = lineage.load("models:/digits/3").logits(pixels)
    with mlflow.start_run() as run:
        found = evaluate("models:/digits/3", pixels.flatten(1).numpy(), targets, top_k=2)
    assert found == pytest.approx(score_logits(logits, torch.tensor(targets), 2), rel=1e-5)
    assert MlflowClient().get_run(run.info.run_id).data.metrics == pytest.approx(found)


@pytest.mark.parametrize(
    ("outputs", "targets", "config", "message"),
    [
        (np.zeros((4, 1)), [0, 0, 0, 0], {}, r"shape \(samples, classes\), but gave .* shape \(4, 1\)"),
        (np.zeros((4, 3)), [0, 1, 2, 3], {}, "must be from 0 to 2, one less than .* from 0 to 3"),
        (np.zeros((4, 3)), ["a", "b", "a", "c"], {}, "must be numbers of classes, or evaluator_config"),
        (
            np.zeros((4, 3)),
            ["a", "b", "a", "x"],
            {"class_names": ["a", "b", "c"]},
            "among class_names, but got x",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    home: Path, outputs: Any, targets: list[Any], config: dict[str, Any], message: str
) -> None:
    rows = np.arange(4).reshape(-1, 1)
    with mlflow.start_run(), pytest.raises(UsageError, match=message):
        evaluate(lambda _rows: outputs, rows, np.array(targets), **config)


def test_signature_without_tensors_leaves_rows_alone(home: Path) -> None:
    iris = load_iris()
    fitted = LogisticRegression(max_iter=500).fit(iris.data, iris.target)
    signature = infer_signature(iris.data, fitted.predict_proba(iris.data))
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            fitted,
            name="iris",
            pyfunc_predict_fn="predict_proba",
            signature=signature,
            pip_requirements=[],
            serialization_format="skops",
            skops_trusted_types=[],
        )
        found = evaluate(info.model_uri, iris.data, iris.target, top_k=2)
    assert found["accuracy"] == pytest.approx(fitted.score(iris.data, iris.target))
