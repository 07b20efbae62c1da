"""A store with families to look at, MLflow servers that show them, and Chromium to look with."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from lineage.data.datasets import DataSpec
from lineage.models.networks import build_network
from lineage.registry.care.remove import remove
from lineage.registry.family.aliases import promote
from lineage.registry.family.family import Member, Version
from lineage.registry.family.register import NewVersion, register
from lineage.registry.flavor import LoadedModel, log_model, weights_digest
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.runs import start_run

TILES = DataSpec("tiles", ("red", "green"), None, (0.5,), (0.5,), (1, 8, 8), "d" * 64)
HOSTILE = "<img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class Store:
    """Where the families lie.

    Attributes:
        uri: Of the database.
        folder: Of a server's files.
        growing: Id of the run that is being trained below ``digits/2``.
    """

    uri: str
    folder: Path
    growing: str


@pytest.fixture(scope="session")
def store(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """``digits``: three generations, a branch, an ensemble, one removed, one growing. And a hostile name."""
    folder = tmp_path_factory.mktemp("families")
    shutil.copy(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        family = _Family("digits")
        patriarch = family.beget(accuracy=0.9)
        second = family.beget(patriarch, accuracy=0.92)
        third = family.beget(second, accuracy=0.95)
        family.beget(second, accuracy=0.91, seed=7)
        family.combine([patriarch, second, third], accuracy=0.97)
        family.beget(patriarch, accuracy=0.89, seed=1)
        remove("models:/digits/6", force=True)
        promote("models:/digits/3", "champion")
        growing = family.start(second, epoch=3)
        hostile = _Family(HOSTILE)
        hostile.beget(accuracy=0.5, objective=HOSTILE)
    return Store(uri, folder, growing)


class _Family:
    """Registers versions of one name from one logged model, each with a run and settings of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.experiment = ensure_experiment(name)
        torch.manual_seed(0)
        network = build_network("resnet8", TILES.num_classes, TILES.input_shape, {"width": 4}).eval()
        self.model = LoadedModel(network, "resnet8", {"width": 4}, TILES, "{}")
        self.model_id = log_model(self.model, "tiles", self._start(None, 0, 0).run_id, {})
        self.sha256 = weights_digest(network)

    def beget(
        self, teacher: Version | None = None, *, accuracy: float, seed: int = 0, **changes: Any
    ) -> Version:
        generation = 0 if teacher is None else teacher.generation + 1
        run = self._start(teacher, generation, seed)
        metrics = {
            "test_accuracy": accuracy,
            "test_calibration_error": 1 - accuracy,
            "ensemble_accuracy": 0.96,
        }
        values = {
            "generation": generation,
            "teacher": teacher,
            "objective": "student" if teacher else "tolerant",
            "seed": seed,
            "recipe_digest": f"{seed}" * 64,
            "key": f"{self.name}-{generation}-{seed}",
            "metrics": metrics | {"validation_accuracy": accuracy - 0.01},
            "weights_sha256": self.sha256,
        }
        version = register(self.name, NewVersion(**values | changes), self.model_id, run.run_id)
        run.finish(version)
        return version

    def combine(self, members: list[Version], accuracy: float) -> Version:
        shares = tuple(Member(one.id, one.model_id, one.weights_sha256, 1 / len(members)) for one in members)
        changes = {"kind": "ensemble", "objective": "ensemble", "members": shares, "key": "all"}
        return self.beget(accuracy=accuracy, generation=members[-1].generation, **changes)

    def start(self, teacher: Version, epoch: int) -> str:
        run = self._start(teacher, teacher.generation + 1, 4)
        run.log_epoch({"loss": 0.5}, epoch)
        return run.run_id

    def _start(self, teacher: Version | None, generation: int, seed: int) -> Any:
        tags = {"generation": str(generation), "seed": str(seed), "epochs": "8"}
        return start_run(
            self.experiment,
            f"{self.name} generation {generation}",
            () if teacher is None else (teacher,),
            tags if teacher is None else tags | {"key": "k"},
            "{}",
            {"training.lr": 0.1 if seed == 0 else 0.05, "training.epochs": 8, "data.name": "tiles"},
            TILES,
        )


@pytest.fixture(scope="session")
def serve_families(
    serving: Callable[..., AbstractContextManager[Path]], free_port: Callable[[], int]
) -> Callable[..., AbstractContextManager[str]]:
    """Runs ``mlflow server`` with one of the apps on a store; gives its address."""

    @contextmanager
    def serve(
        uri: str, folder: Path, *options: str, app: str = "lineage", prefix: str = "", **variables: str
    ) -> Iterator[str]:
        port = free_port()
        command = ["-m", "mlflow", "server", "--app-name", app, "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", uri, *options]
        if prefix:
            command += ["--static-prefix", prefix]
        address = f"http://127.0.0.1:{port}{prefix}"
        with serving(command, folder, f"{address}/health", variables):
            yield address

    return serve


@pytest.fixture(scope="session")
def site(store: Store, serve_families: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """The address of a server that shows the store."""
    with serve_families(store.uri, store.folder) as address:
        yield address


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a screen."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed: 'apt-get install chromium'.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page; what its script complains of, or what its policy forbids, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 760})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield opened
    context.close()
    assert [fault for fault in faults if "Failed to load resource" not in fault] == []
