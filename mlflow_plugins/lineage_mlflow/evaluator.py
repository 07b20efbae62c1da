"""Metrics of lineage for any classifier: ``mlflow.models.evaluate(model, data, evaluators="lineage")``.

An entry point of the group ``mlflow.model_evaluator``. The model, or the column of predictions, must give
logits or probabilities of shape (N, C); outputs are taken as probabilities if they are non-negative and every
row sums to 1. MLflow's data are rows of numbers; if the model's signature has a tensor as input, as for
models of lineage, rows are reshaped to it.

Keys of ``evaluator_config``, all optional: ``top_k`` (number of classes K for secondary mass and top score
difference; 5 by default), ``class_names`` (in the order of the model's outputs, if labels are names) and
``superclasses`` (index of the superclass of each class).
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

_DEFAULT_TOP_K = 5
_SUM_TOLERANCE = 1e-3  # sums of probabilities in half precision are this far from 1


class LineageEvaluator(ModelEvaluator):
    """Evaluator that MLflow calls for ``evaluators="lineage"``."""

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: Mapping[str, Any], **kwargs: Any) -> bool:
        """Return whether ``model_type`` is a classifier or not given."""
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
        """Compute the metrics and log them to the run and, if there is one, the logged model.

        Raises:
            UsageError: If outputs do not have the shape (N, C), or labels are not among the C classes.
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
            min(int(config.get("top_k", _DEFAULT_TOP_K)), logits.shape[1]),
            None if superclasses is None else torch.tensor(list(superclasses)),
        )
        _log(metrics, run_id, kwargs.get("model_id"), dataset)
        return EvaluationResult(metrics=metrics, artifacts={})


def _predict(model: Any, features: Any) -> Any:
    """Return the model's outputs for rows that are reshaped and cast as its signature says."""
    signature = model.metadata.signature if getattr(model, "metadata", None) else None
    if signature is not None and signature.inputs.is_tensor_spec() and not signature.inputs.has_input_names():
        (tensor,) = signature.inputs.inputs
        rows = np.asarray(features)
        if rows.ndim != len(tensor.shape):
            features = rows.reshape(len(rows), *tensor.shape[1:]).astype(tensor.type)
    return model.predict(features)


def _as_logits(outputs: Any) -> Tensor:
    """Return logits as float64 of shape (N, C); for probabilities, their logarithms."""
    if getattr(outputs, "ndim", 2) == 1:  # a column with one list per row
        outputs = list(outputs)
    scores = torch.as_tensor(np.asarray(outputs, dtype=np.float64))
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise UsageError(
            "A classifier must give logits or probabilities of shape (samples, classes), but gave an array of"
            f" shape {tuple(scores.shape)}."
        )
    if bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < _SUM_TOLERANCE).all()):
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return scores


def _as_classes(labels: Any, num_classes: int, names: Sequence[str] | None) -> Tensor:
    """Return class indices as int64 of shape (N,)."""
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
            f" model's outputs, but got labels of type {given.dtype} and no class_names."
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
    logged = [
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
    MlflowClient().log_batch(run_id, logged)
