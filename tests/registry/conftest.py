"""Fixtures that put families into a registry: runs, logged models, versions."""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from lineage.data.datasets import DataSpec
from lineage.models.networks import build_network
from lineage.registry.family.family import Version
from lineage.registry.family.register import NewVersion, register
from lineage.registry.flavor import LoadedModel, log_model, weights_digest
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.runs import GenerationRun, start_run

TILES = DataSpec(
    name="tiles",
    class_names=("red", "green", "blue"),
    superclasses=None,
    mean=(0.25, 0.5, 0.75),
    std=(0.125, 0.25, 0.5),
    input_shape=(3, 8, 8),
    digest="d" * 64,
)


@pytest.fixture
def name() -> str:
    """Return the name of a registered model that no other test uses."""
    return f"family-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def tiles() -> DataSpec:
    """Return a description of three classes of 3×8×8 images, normalised by powers of two."""
    return TILES


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    """Return an untrained network whose running statistics are not the initial ones."""
    torch.manual_seed(0)
    options = {"width": 4}
    network = build_network("resnet8", TILES.num_classes, TILES.input_shape, options)
    network(torch.randn(64, *TILES.input_shape))
    network.to(memory_format=torch.channels_last).eval()
    return LoadedModel(network, "resnet8", options, TILES, '{"model": {"name": "tiles"}}')


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """Return a batch of pixel values in [0, 1], shape (5, 3, 8, 8)."""
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def open_run(name: str) -> Callable[..., GenerationRun]:
    """Return a function that starts runs in the experiment ``name``."""

    def start(
        teacher: Version | None = None, experiment: str = name, data: DataSpec = TILES
    ) -> GenerationRun:
        return start_run(
            ensure_experiment(experiment),
            "tiles generation",
            () if teacher is None else (teacher,),
            {"key": "k", "generation": "0"},
            '{"recipe": true}',
            {"training.epochs": 2, "network.width": None},
            data,
        )

    return start


@dataclass(frozen=True)
class Logged:
    """A logged model that any number of versions can be registered from."""

    model_id: str
    run: GenerationRun
    sha256: str


@pytest.fixture
def log_one(open_run: Callable[..., GenerationRun], model: LoadedModel) -> Callable[..., Logged]:
    """Return a function that logs the model in a run of its own."""

    def log(experiment: str | None = None) -> Logged:
        run = open_run() if experiment is None else open_run(experiment=experiment)
        model_id = log_model(model, f"{experiment}-generation-0", run.run_id, {"test_accuracy": 0.5}, 1)
        return Logged(model_id, run, weights_digest(model.network))

    return log


@pytest.fixture(scope="session")
def logged_once() -> dict[str, Logged]:
    """Return the one logged model of each store that generations are registered from, by the store's URI."""
    return {}


@pytest.fixture
def add_version(
    name: str, log_one: Callable[..., Logged], logged_once: dict[str, Logged]
) -> Callable[..., Version]:
    """Return a function that registers generations under ``name``, all of one logged model by default."""

    def register_one(
        teacher: Version | None = None,
        logged: Logged | None = None,
        family: str = name,
        **changes: Any,
    ) -> Version:
        if logged is None:
            store = os.environ["MLFLOW_TRACKING_URI"]
            if store not in logged_once:
                logged_once[store] = log_one()
            logged = logged_once[store]
        new = NewVersion(
            generation=0 if teacher is None else teacher.generation + 1,
            teacher=teacher,
            objective="tolerant" if teacher is None else "student",
            seed=3,
            recipe_digest="r" * 64,
            key=uuid.uuid4().hex,
            metrics={"test_accuracy": 0.5},
            weights_sha256=logged.sha256,
        )
        return register(family, replace(new, **changes), logged.model_id, logged.run.run_id)

    return register_one
