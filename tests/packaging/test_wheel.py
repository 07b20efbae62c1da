"""The wheel in ``dist/``, installed outside the source tree and used from an empty folder."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FIND_PLUGINS = """
import json
from importlib.metadata import entry_points
from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry
from mlflow.tracking.context.registry import _run_context_provider_registry
import lineage, lineage_mlflow
print(json.dumps({
    "files": [lineage.__file__, lineage_mlflow.__file__],
    "evaluator": _model_evaluation_registry.get_evaluator("lineage").__module__,
    "context": [type(provider).__module__ for provider in _run_context_provider_registry],
    "apps": sorted(
        entry.name for entry in entry_points(group="mlflow.app") if entry.dist.name == "lineage-distillation"
    ),
}))
"""


def _built(pattern: str) -> Path:
    """The one file in ``dist/`` that fits ``pattern``."""
    (file,) = (ROOT / "dist").glob(pattern)
    return file


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel and sees the dependencies of the one that runs the tests.

    Installing the dependencies again would download 5 GB. A ``.pth`` file adds a folder to the path without
    reading the ``.pth`` files in it, so the editable installation of the source tree stays out.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    wheel = str(_built("lineage_distillation-*.whl"))
    subprocess.run([*pip, "--no-deps", "--no-index", "--force-reinstall", wheel], check=True)
    return folder


@pytest.fixture(scope="module")
def variables(environment: Path) -> dict[str, str]:
    """Environment variables of a user who knows nothing of the source tree."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_TRACKING_URI", "LINEAGE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty working directory."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def run(environment: Path, variables: dict[str, str], folder: Path) -> Run:
    """Runs a program of the environment in the folder; it must succeed."""

    def run_program(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [str(environment / "bin" / program), *arguments],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run_program


@pytest.fixture(scope="module")
def grown(run: Run, tiny: Callable[..., list[str]]) -> None:
    """A patriarch and a student in the folder's own store."""
    outcome = run("lineage", "grow", "digits", "--generations", "1", *tiny())
    assert "generation 1: registered models:/digits/2" in outcome.stderr


@contextmanager
def _ui(environment: Path, variables: dict[str, str], folder: Path) -> Iterator[str]:
    """Address of the page that ``lineage ui`` serves while the block runs."""
    command = [str(environment / "bin" / "lineage"), "ui", "--port", "0"]
    with (
        (folder / "ui.log").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def test_wheel_is_imported_and_its_plugins_are_found(run: Run, environment: Path) -> None:
    found = json.loads(run("python", "-c", FIND_PLUGINS).stdout)
    assert all(Path(file).is_relative_to(environment) for file in found["files"])
    assert found["evaluator"] == "lineage_mlflow.evaluator"
    assert "lineage_mlflow.context" in found["context"]
    assert found["apps"] == ["lineage", "lineage-auth"]


def test_recipes_of_the_wheel_are_those_of_the_source_tree(run: Run) -> None:
    listed = json.loads(run("lineage", "recipes", "ls", "--json").stdout)
    assert sorted(row["name"] for row in listed) == sorted(
        file.stem for file in ROOT.glob("recipes/**/*.toml")
    )


@pytest.mark.usefixtures("grown")
def test_page_of_a_grown_family_needs_nothing_else(run: Run, folder: Path) -> None:
    run("lineage", "tree", "digits", "--html", "tree.html")
    page = (folder / "tree.html").read_text()
    assert '"digits/2"' in page
    assert not re.search(r"""<(?:script|link)[^>]+(?:src|href)=["'](?!data:)""", page)


@pytest.mark.usefixtures("grown")
def test_server_answers_with_the_page_and_its_families(
    environment: Path, variables: dict[str, str], folder: Path
) -> None:
    with _ui(environment, variables, folder) as address:
        page = requests.get(address, timeout=30)
        families = requests.get(
            address.removesuffix("/lineage") + "/ajax-api/3.0/lineage/families", timeout=30
        ).json()["families"]
    assert (page.status_code, "<title>" in page.text) == (200, True)
    assert [family["name"] for family in families] == ["digits"]


def test_sdist_builds_the_same_wheel(tmp_path: Path) -> None:
    with tarfile.open(_built("lineage_distillation-*.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (rebuilt,) = tmp_path.glob("*.whl")
    wheel = _built("lineage_distillation-*.whl")
    ours, theirs = (zipfile.ZipFile(file).namelist() for file in (wheel, rebuilt))
    assert ours == theirs
