"""An sqlite store that is moved or copied is read where it is, and leaves the original alone."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from lineage.errors import IntegrityError
from lineage.registry.care.doctor import examine
from lineage.registry.store.connection import check_store, connect, ensure_experiment
from lineage.registry.store.moves import find_moves

Use = Callable[[Path], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Function that makes the store in a folder the one in use; MLflow's own repositories come back."""
    repositories = mlflow.store.artifact.artifact_repository_registry.get_registered_artifact_repositories()
    before = dict(repositories)

    def change(folder: Path) -> None:
        mlflow.tracking._tracking_service.utils._artifact_repos_cache.clear()  # as in a new process
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")

    yield change
    repositories.update(before)


@pytest.fixture
def original(home: Path, use: Use) -> Path:
    """A folder with a store that holds a run with an artifact, and an experiment without any."""
    folder = home / "first place"
    folder.mkdir()
    (home / "mlflow.db").rename(folder / "mlflow.db")
    use(folder)
    client = connect()
    client.create_registered_model("tiles")
    ensure_experiment("empty")
    client.log_text(client.create_run(ensure_experiment("tiles")).info.run_id, "here", "note.txt")
    return folder


def _run() -> mlflow.entities.Run:
    client = connect()
    (run,) = client.search_runs([client.get_experiment_by_name("tiles").experiment_id])
    return run


def _read() -> str:
    path = mlflow.artifacts.download_artifacts(run_id=_run().info.run_id, artifact_path="note.txt")
    return Path(path).read_text()


def _everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _fix() -> list[str]:
    return [finding.check for finding in examine("tiles", lambda _key: False, fix=True, weights=False).fixed]


def test_moved_store_is_read_where_it_is_and_says_so(
    original: Path, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    place = original.rename(original.with_name("other place"))
    use(place)
    with caplog.at_level(logging.WARNING):
        assert _read() == "here"
        connect()
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("lineage")]
    assert f"moved from {original} to {place}; 'lineage doctor tiles --fix'" in said


def test_moved_store_takes_no_artifacts_until_it_is_made_whole(original: Path, use: Use) -> None:
    place = original.rename(original.with_name("other place"))
    use(place)
    for write in (check_store, lambda: ensure_experiment("empty"), lambda: ensure_experiment("new")):
        with pytest.raises(IntegrityError, match=f"moved from {original} to {place}"):
            write()
    with pytest.raises(IntegrityError, match="moved from"):
        MlflowClient().log_text(_run().info.run_id, "more", "more.txt")
    assert _fix() == ["moved-store"]
    MlflowClient().log_text(_run().info.run_id, "more", "more.txt")
    MlflowClient().log_text(MlflowClient().create_run(ensure_experiment("empty")).info.run_id, "x", "x.txt")
    assert len(list(place.rglob("*.txt"))) == 3
    assert not original.exists()
    assert find_moves(place / "mlflow.db") == ()


@pytest.mark.parametrize("fixed", [False, True])
def test_copy_of_a_store_never_touches_the_original(original: Path, use: Use, fixed: bool) -> None:
    place = shutil.copytree(original, original.with_name("copy"))
    before = _everything(original)
    (next(place.rglob("note.txt"))).write_text("there")
    use(place)
    assert _read() == "there"
    if fixed:
        assert _fix() == ["moved-store"]
        MlflowClient().log_text(_run().info.run_id, "more", "more.txt")
    else:
        with pytest.raises(IntegrityError, match="moved from"):
            MlflowClient().log_text(_run().info.run_id, "more", "more.txt")
    assert _everything(original) == before


def test_copy_of_the_database_alone_reads_the_original_and_fetches_its_artifacts(
    original: Path, use: Use
) -> None:
    place = original.with_name("copy")
    place.mkdir()
    shutil.copy(original / "mlflow.db", place)
    before = _everything(original)
    use(place)
    assert _read() == "here"
    with pytest.raises(IntegrityError, match="moved from"):
        ensure_experiment("tiles")
    assert _fix() == ["moved-store"]
    shutil.move(original, original.with_name("gone"))
    assert _read() == "here"
    assert {Path(path).name for path in before} == {"mlflow.db", "note.txt"}


def test_store_behind_a_link_was_not_moved(original: Path, use: Use) -> None:
    link = original.with_name("link")
    link.symlink_to(original)
    use(link)
    check_store()
    place = original.rename(original.with_name("other place"))
    original.symlink_to(place)
    use(place)
    check_store()


def test_artifacts_that_somebody_put_elsewhere_were_not_moved(original: Path, use: Use) -> None:
    disk = original.with_name("disk")
    (disk / "mlruns" / "big").mkdir(parents=True)
    connect().create_experiment("big", artifact_location=(disk / "mlruns" / "big").as_uri())
    check_store()
    assert ensure_experiment("big")
