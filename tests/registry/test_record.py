"""A family as one text without weights: it holds what figures need, and is read or refused in a sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from records import small_record

from lineage.errors import IntegrityError, LineageError, NotFoundError, UsageError
from lineage.exchange.pack import pack
from lineage.exchange.unpack import unpack
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_family
from lineage.registry.flavor import LoadedModel, log_model, weights_digest
from lineage.registry.packing.record import make_history, read_record, record_text
from lineage.registry.packing.recording import _read_history, record_family
from lineage.registry.store.predictions_file import make_predictions, predictions_text
from lineage.registry.store.runs import metrics_now


@pytest.fixture
def text(
    sqlite_registry: Any,
    name: str,
    model: LoadedModel,
    open_run: Callable[..., Any],
    add_version: Callable[..., Version],
    tmp_path: Path,
) -> Path:
    """The text of a family of two generations, of which the first has predictions and a history."""
    predicted = make_predictions(
        np.array([0, 1]), np.array([[0, 1, 2], [2, 1, 0]]), np.array([[0.5, 0.3, 0.2]] * 2), {}, 3, 3
    )
    run = open_run()
    recipe = json.dumps({"model": {"name": "tiles"}, "data": {"root": "/home/me", "seed": 7}})
    logged = replace(model, predictions=predictions_text(predicted), recipe=recipe)
    model_id = log_model(logged, "patriarch", run.run_id, {"test_accuracy": 0.5})
    rows = [{"train_loss": 1 / 3 / epoch, "lr": nan if epoch == 250 else 0.1} for epoch in range(1, 251)]
    metrics = [metric for epoch, row in enumerate(rows, 1) for metric in metrics_now(row, epoch)]
    MlflowClient().log_batch(run.run_id, metrics)
    digest = weights_digest(model.network)
    patriarch = add_version(logged=SimpleNamespace(model_id=model_id, run=run, sha256=digest))
    add_version(patriarch)
    packing = pack(name, tmp_path / "family.json", with_weights=False)
    assert (packing.num_versions, packing.with_weights) == (2, False)
    assert packing.num_without_predictions == 1  # the student's
    return packing.file


def test_text_holds_what_figures_need_without_a_store(
    text: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = read_family(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers
    record = read_record(text)
    assert record.family == family
    patriarch, student = record.family
    predicted = record.predictions_of(patriarch)
    assert predicted is not None
    assert predicted.classes.tolist() == [[0, 1, 2], [2, 1, 0]]
    assert record.predictions_of(student) is None
    data = record.data_of(patriarch)
    assert data is not None
    assert (data.name, data.class_names) == ("tiles", ("red", "green", "blue"))
    first = record.versions[0]
    assert first.settings == {"model": {"name": "tiles"}, "data": {"root": None, "seed": 7}}
    assert len(first.history.epochs) == 84
    assert (first.history.epochs[0], first.history.epochs[-1]) == (1, 250)
    assert first.history.values["train_loss"][-1] == 0.00133333
    assert first.history.values["lr"][-2:] == (0.1, None)


@pytest.mark.usefixtures("text")
def test_version_whose_run_is_gone_for_good_has_no_history(name: str) -> None:
    patriarch = read_family(name).versions[0]
    assert _read_history(patriarch).epochs
    assert _read_history(replace(patriarch, run_id="0" * 32)).epochs == ()


def test_same_family_gives_the_same_text(text: Path, name: str) -> None:
    assert record_text(record_family(name)) == text.read_text() == record_text(read_record(text))


def test_text_is_not_unpacked(text: Path) -> None:
    sentence = r"^FILE must hold the files .* text without weights.*\.zip archive\.$"
    with pytest.raises(IntegrityError, match=sentence):
        unpack(text)


def test_text_with_weights_is_refused(sqlite_registry: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^FILE must end in \.zip, or be packed --without-weights"):
        pack(name, tmp_path / "family.json")


def test_history_keeps_the_last_epoch_and_gaps() -> None:
    history = make_history({"a": {1: 0.5, 2: None, 3: 0.25}, "b": {3: 1.0}}, most=2)
    assert (history.epochs, history.values) == ((1, 3), {"a": (0.5, 0.25), "b": (None, 1.0)})
    assert make_history({}).epochs == ()


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"family without weights, but '.*nothing.json' is no file"):
        read_record(tmp_path / "nothing.json")


VALUES = st.one_of(
    st.none(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.just([]), st.just({})
)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The text of a family that no store holds."""
    file = tmp_path / "plain.json"
    file.write_text(record_text(small_record()), encoding="utf-8")
    return file


def test_altered_text_is_read_or_told(plain: Path, tmp_path: Path) -> None:
    tree = json.loads(plain.read_text())
    file = tmp_path / "altered.json"
    version, (data,) = tree["versions"][0], tree["data"].values()
    parts = (tree, version, data, version["tags"], version["predictions"], version["history"])
    places = [(part, key) for part in parts for key in part]

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(st.sampled_from(range(len(places))), VALUES)
    def alter(number: int, value: Any) -> None:
        part, key = places[number]
        former = part[key]
        part[key] = value
        file.write_text(json.dumps(tree))
        part[key] = former
        try:
            read_record(file)
        except LineageError as error:
            assert "\n" not in str(error)
            assert str(error).endswith(".")

    alter()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, "must be at most 1, but is 2"),
        ({"kind": "cat"}, "must be 'lineage-family', not 'cat'"),
        ({"name": "a/b"}, "'a/b' must be the name of a model"),
        ({"versions": "none"}, "'versions'"),
    ],
)
def test_field_that_cannot_hold_is_told(plain: Path, change: dict[str, Any], problem: str) -> None:
    plain.write_text(json.dumps(json.loads(plain.read_text()) | change))
    with pytest.raises(IntegrityError, match=problem):
        read_record(plain)


def test_predictions_of_other_classes_are_told(plain: Path) -> None:
    tree = json.loads(plain.read_text())
    (data,) = tree["data"].values()
    data |= {"class_names": ["one", "two"], "superclasses": None}
    plain.write_text(json.dumps(tree))
    with pytest.raises(IntegrityError, match="must be of 2 classes, as its data set, but is of 6"):
        read_record(plain)


@pytest.mark.parametrize("superclasses", [[0, 0, 0, 1, 1, -1], [0, 0, 0, 1, 1, 2**40], [0]])
def test_superclasses_that_cannot_be_are_told(plain: Path, superclasses: list[int]) -> None:
    tree = json.loads(plain.read_text())
    for data in tree["data"].values():
        data["superclasses"] = superclasses
    plain.write_text(json.dumps(tree))
    with pytest.raises(IntegrityError, match="superclasses"):
        read_record(plain)
