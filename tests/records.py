"""A family as plain values, made in no time, for tests of what is drawn from it."""

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lineage.registry.packing.record import DataRecord, FamilyRecord, TransferRecord, VersionRecord
from lineage.registry.store.predicted import Predictions
from lineage.registry.store.predictions_file import make_predictions, predictions_text

NAMES = ("apple", "pear", "plum", "$x^2$", "wolf", "dog")
SUPERCLASSES = (0, 0, 0, 1, 1, 1)
DIGEST = "d" * 64
DATA = DataRecord("tiles", NAMES, SUPERCLASSES, (3, 8, 8), DIGEST)


def small_predictions(seed: int, skill: float = 1.5, num_images: int = 120) -> Predictions:
    """Predictions of six classes, of which two groups are alike."""
    random = np.random.default_rng(seed)
    labels = np.arange(num_images) % len(NAMES)
    logits = np.random.default_rng(100 + seed).normal(size=(num_images, len(NAMES)))
    groups = np.array(SUPERCLASSES)
    logits += skill * (groups[labels][:, None] == groups)
    logits[np.arange(num_images), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    classes = np.argsort(-probabilities, axis=1)[:, :5]
    top = np.take_along_axis(probabilities, classes, axis=1)
    share = random.random(num_images)
    return make_predictions(labels, classes, top, {"superclass_share": share}, len(NAMES), 5)


def small_record(
    name: str = "fruit", seeds: int = 2, generations: int = 3, gain: float = 0.02
) -> FamilyRecord:
    """A family of some seeds and generations, with metrics, predictions and a transfer."""
    versions = []
    for seed in range(seeds):
        for generation in range(generations):
            number = len(versions) + 1
            predicted = small_predictions(number, skill=1 + gain * generation)
            accuracy = predicted.accuracy
            metrics = {
                "test_accuracy": accuracy,
                "ensemble_accuracy": min(accuracy + 0.01, 1.0),
                "test_calibration_error": predicted.reliability.calibration_error,
                "test_top_probability": float(predicted.probabilities[:, 0].mean()),
                "test_secondary_mass": float(predicted.probabilities[:, 1:].sum(axis=1).mean()),
                "test_superclass_share": 0.5,
            }
            tags = {
                "lineage.schema": "1",
                "lineage.kind": "generation",
                "lineage.generation": str(generation),
                "lineage.seed": str(seed),
                "lineage.recipe_digest": "r" * 64,
                "lineage.root": f"{name}/{number - generation}",
                "lineage.metrics": json.dumps(metrics),
            }
            if generation:
                tags["lineage.teacher"] = f"{name}/{number - 1}"
            versions.append(
                VersionRecord(
                    number=number,
                    created=number,
                    model_id=f"m-{number}",
                    run_id=f"r-{number}",
                    tags=tags,
                    data=DIGEST,
                    transfers=(TransferRecord("cifar10", "logistic", 0.4 + gain * generation),),
                    predictions=json.loads(predictions_text(predicted)),
                )
            )
    return FamilyRecord(name, tuple(versions), {DIGEST: DATA})


class Files:
    """Files of logged models, read as from a store."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}

    def put(self, model_id: str, predicted: Predictions, **changes: Any) -> None:
        """Add a model that predicted this, on ``DATA`` with some changes."""
        structure = {"schema": 1, "data": asdict(replace(DATA, **changes))}
        texts = {"lineage.json": json.dumps(structure), "predictions.json": predictions_text(predicted)}
        self.models[model_id] = {name: text.encode() for name, text in texts.items()}

    def __call__(self, model_id: str, names: Collection[str]) -> dict[str, bytes]:
        found = self.models.get(model_id, {})
        return {name: found[name] for name in names if name in found}
