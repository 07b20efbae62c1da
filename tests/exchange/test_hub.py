import base64
import json
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

import lineage
from lineage.errors import RegistryError, UsageError

FILES = ("README.md", "config.json", "model.safetensors", "network.py", "recipe.toml")


@pytest.fixture(scope="module")
def grown(module_home: Path, tiny_settings: tuple[str, ...]) -> lineage.Lineage:
    """A tiny patriarch, its student, and a student of that one with other settings."""
    (line,) = lineage.grow("digits", generations=1, overrides=tiny_settings)
    other = [*tiny_settings, "student.temperature=2.0"]
    lineage.grow("digits", teacher=line.versions[1].uri, overrides=other, name="branch")
    return line


class Hub(ThreadingHTTPServer):
    """A stand-in for the hub: it takes a repository, looks at the card, and keeps the files of a commit.

    Args:
        status: Status of all its answers.
    """

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.files: dict[str, bytes] = {}
        self.created: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        address = f"http://127.0.0.1:{self.server.server_port}/owner/student"
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(content)["name"])
            answer = {"url": address, "id": "owner/student"}
        elif self.path.endswith("/preupload/main"):
            files = json.loads(content)["files"]
            answer["files"] = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
            ]
        elif self.path.endswith("/commit/main"):
            for entry in map(json.loads, content.splitlines()):
                if entry["key"] == "file":
                    value = entry["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            answer = {"commitUrl": f"{address}/commit/0", "commitOid": "0"}
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer({"id": "owner/student", "sha": "0", "siblings": [], "tags": []})

    def _answer(self, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: Any) -> None:
        """Print nothing."""


@contextmanager
def serving_hub(monkeypatch: pytest.MonkeyPatch, status: int = 200) -> Iterator[Hub]:
    hub = Hub(status)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def card(uri: str, folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Return the metadata and the text of the exported card."""
    assert lineage.export(uri, folder, "hub", **options).files == FILES
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


def command(text: str) -> list[str]:
    """Return the command of a card."""
    (line,) = [line for line in text.splitlines() if line.startswith("$ lineage ")]
    return shlex.split(line)[2:]


def test_card_names_teacher_and_family(grown: lineage.Lineage, tmp_path: Path) -> None:
    patriarch, student = grown.versions
    metadata, text = card(student.uri, tmp_path / "student")
    assert metadata["base_model"] == "digits-1"
    assert metadata["pipeline_tag"] == "image-classification"
    assert "knowledge-distillation" in metadata["tags"]
    accuracy = f"{student.metrics['test_accuracy']:.2%}".replace("%", " %")
    assert f"| **2** | generation | 1 | digits/1 | student | 0 | {accuracy} |" in text
    assert "| 1 | generation | 0 |  | tolerant |" in text
    assert student.weights_sha256 in text
    assert "base_model" not in card(patriarch.uri, tmp_path / "patriarch")[0]
    named, _ = card(student.uri, tmp_path / "named", base_model="owner/teacher")
    assert named["base_model"] == "owner/teacher"


def test_command_of_the_card_grows_the_same_weights(
    grown: lineage.Lineage, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = grown.versions[1]
    _, text = card(student.uri, tmp_path / "student")
    name, *options = command(text)[1:]
    assert (name, options) == ("recipe.toml", ["--generations", "1"])
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    (again,) = lineage.grow("student/recipe.toml", generations=1)
    assert again.versions[1].key == student.key
    assert again.versions[1].weights_sha256 == student.weights_sha256


def test_command_of_a_branch_names_its_teacher(grown: lineage.Lineage, tmp_path: Path) -> None:
    _, text = card("models:/branch/1", tmp_path / "branch")
    assert command(text)[1:] == [
        *("recipe.toml", "--from", "models:/digits/2", "--name", "branch", "--generations", "1")
    ]
    assert "student.temperature=2.0\n" in (tmp_path / "branch" / "recipe.toml").read_text()


def test_pushed_repository_holds_the_folder(
    grown: lineage.Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "student"
    with serving_hub(monkeypatch) as hub:
        outcome = lineage.export(grown.versions[1].uri, folder, "hub", push="owner/student")
    assert outcome.pushed.endswith("/owner/student")
    assert hub.created == ["student"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == hub.files


def test_refused_push_leaves_the_folder_and_says_how_to_go_on(
    grown: lineage.Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "student"
    with (
        serving_hub(monkeypatch, status=401),
        pytest.raises(RegistryError, match="hf upload owner/student") as caught,
    ):
        lineage.export(grown.versions[1].uri, folder, "hub", push="owner/student")
    assert "\n" not in str(caught.value)
    assert tuple(sorted(path.name for path in folder.iterdir())) == FILES


def test_nothing_is_pushed_that_is_not_a_hubs_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--push must come with --to hub, but got --to pt2"):
        lineage.export("models:/digits/2", tmp_path / "x", "pt2", push="owner/student")
    with pytest.raises(UsageError, match="--push must name a repository as OWNER/NAME, but got 'student'"):
        lineage.export("models:/digits/2", tmp_path / "x", "hub", push="student")
    with pytest.raises(UsageError, match="--base-model must name a repository"):
        lineage.export("models:/digits/2", tmp_path / "x", "hub", base_model="a/b/c")
