"""``mlflow.models.evaluate(model, data, evaluators="lineage")``: our measures of any classifier.

An entry point of the group ``mlflow.model_evaluator``. The model, or the column of predictions, gives logits
or probabilities of shape (N, C); rows that are not negative and sum to 1 are taken for probabilities.
MLflow's data are rows of numbers: a model whose signature wants tensors, as ours does, gets every row in that
shape.

``evaluator_config`` may hold ``top_k`` (K of secondary mass and top score difference, 5 by default),
``class_names`` (in the order of the model's outputs, where labels are names) and ``superclasses`` (the
superclass of each class, as a number).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.models.evaluation import EvaluationResult, ModelEvaluator
from torch import Tensor

from lineage.errors import UsageError
from lineage.evaluation.evaluate import score_logits

_TOP_K = 5
_SUMS_TO_ONE = 1e-3  # probabilities in half precision are this far off


class LineageEvaluator(ModelEvaluator):
    """What MLflow calls where ``evaluators`` names ``lineage``."""

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: Mapping[str, Any], **kwargs: Any) -> bool:
        """Whether ``model_type`` is a classifier's, or left open."""
        del evaluator_config, kwargs
        return model_type in ("classifier", None)

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any] | None,
        model: Any = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Measure, and log the numbers to the run and, where it has one, to the logged model.

        Raises:
            UsageError: If outputs are not of shape (N, C), or labels are not classes of theirs.
        """
        del model_type
        config = evaluator_config or {}
        outputs = dataset.predictions_data if model is None else _predict(model, dataset.features_data)
        logits = _as_logits(outputs)
        labels = _as_classes(dataset.labels_data, logits.shape[1], config.get("class_names"))
        superclasses = config.get("superclasses")
        metrics = score_logits(
            logits,
            labels,
            min(int(config.get("top_k", _TOP_K)), logits.shape[1]),
            None if superclasses is None else torch.tensor(list(superclasses)),
        )
        _log(metrics, run_id, kwargs.get("model_id"), dataset)
        return EvaluationResult(metrics=metrics, artifacts={})


def _predict(model: Any, features: Any) -> Any:
    """The model's outputs; rows take the shape and type of its signature's tensor where it has one."""
    signature = model.metadata.signature if getattr(model, "metadata", None) else None
    if signature is not None and signature.inputs.is_tensor_spec() and not signature.inputs.has_input_names():
        (wanted,) = signature.inputs.inputs
        rows = np.asarray(features)
        if rows.ndim != len(wanted.shape):
            features = rows.reshape(len(rows), *wanted.shape[1:]).astype(wanted.type)
    return model.predict(features)


def _as_logits(outputs: Any) -> Tensor:
    """Logits, float64 of shape (N, C); of probabilities, their logarithms."""
    if getattr(outputs, "ndim", 2) == 1:  # a column that holds one list a row
        outputs = list(outputs)
    scores = torch.as_tensor(np.asarray(outputs, dtype=np.float64))
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise UsageError(
            "A classifier must give logits or probabilities of shape (samples, classes), but gave an array of"
            f" shape {tuple(scores.shape)}."
        )
    if bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < _SUMS_TO_ONE).all()):
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return scores


def _as_classes(labels: Any, num_classes: int, names: Sequence[str] | None) -> Tensor:
    """Indices of classes, int64 of shape (N,)."""
    given = np.asarray(labels)
    if names is not None:
        known = {name: number for number, name in enumerate(names)}
        unknown = sorted({str(label) for label in given.tolist() if label not in known})
        if unknown:
            raise UsageError(f"Labels must be among class_names, but got {', '.join(unknown[:5])}.")
        return torch.tensor([known[label] for label in given.tolist()])
    if not np.issubdtype(given.dtype, np.number) or not np.array_equal(given, given.astype(np.int64)):
        raise UsageError(
            "Labels must be numbers of classes, or evaluator_config must have class_names in the order of the"
            f" model's outputs, but got {given.dtype} and no names."
        )
    classes = torch.as_tensor(given.astype(np.int64))
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        raise UsageError(
            f"Labels must be from 0 to {num_classes - 1}, one less than the model's classes, but go from"
            f" {int(classes.min())} to {int(classes.max())}."
        )
    return classes


def _log(metrics: Mapping[str, float], run_id: str, model_id: str | None, dataset: Any) -> None:
    now = int(time.time() * 1000)
    found = [
        Metric(
            name,
            value,
            now,
            0,
            model_id=model_id,
            dataset_name=dataset.name,
            dataset_digest=dataset.digest,
            run_id=run_id,
        )
        for name, value in metrics.items()
    ]
    MlflowClient().log_batch(run_id, found)
