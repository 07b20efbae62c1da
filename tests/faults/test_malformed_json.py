"""Whatever stands in ``lineage.json``, ``MLmodel`` or tags is read, or refused in one sentence."""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from lineage.errors import IntegrityError, LineageError
from lineage.registry.family.family import from_model_version
from lineage.registry.store.artifacts import read_network, read_structure
from lineage.registry.store.files import LOADER_MODULE, files_digest, require_own_loader

MEMBER = {"id": "digits/1", "model_id": "m-1", "weights_sha256": "a", "weight": 1.0, "files_sha256": ""}
DATA = {
    "name": "tiles",
    "class_names": ["red", "green"],
    "superclasses": [0, 1],
    "mean": [0.25, 0.5, 0.75],
    "std": [0.125, 0.25, 0.5],
    "input_shape": [3, 8, 8],
    "digest": "d",
}
NETWORK = {"name": "resnet8", "options": {"width": 4}, "members": [MEMBER]}
STRUCTURE = {"schema": 1, "network": NETWORK, "data": DATA}
MLMODEL = {
    "flavors": {"python_function": {"loader_module": LOADER_MODULE, "env": {}}, "lineage": {"schema": 1}},
    "signature": {"inputs": "[]"},
}
TAGS: dict[str, str] = {
    "lineage.schema": "1",
    "lineage.kind": "ensemble",
    "lineage.generation": "1",
    "lineage.teacher": "digits/1",
    "lineage.root": "digits/1",
    "lineage.seed": "0",
    "lineage.metrics": '{"test_accuracy": 0.5}',
    "lineage.member.0": json.dumps(MEMBER),
}

LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FUZZED = settings(max_examples=100, deadline=None, database=None, derandomize=True)


@st.composite
def changed(draw: st.DrawFn, tree: Any) -> Any:
    """Draw ``tree`` with one or two of its values replaced, removed or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        place: Any = tree
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys)) if keys else None
            deeper = keys and isinstance(place[key], dict | list) and len(place[key]) > 0
            if not deeper or draw(st.booleans()):
                break
            place = place[key]
        if key is None:
            continue
        action = draw(st.sampled_from(["replace", "remove", "double"]))
        if action == "replace":
            place[key] = draw(VALUES)
        elif action == "remove":
            del place[key]
        elif isinstance(place, list):
            place.append(place[key])
    return tree


def assert_told(read: Callable[[], object], *names: str) -> None:
    """Assert that ``read`` succeeds or raises one sentence with ``names``."""
    try:
        read()
    except LineageError as error:
        message = str(error)
        assert any(name in message for name in names), message
        assert "\n" not in message
        assert message.endswith(".")


def in_file(name: str, content: bytes, *reads: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / name).write_bytes(content)
        for read in reads:
            assert_told(lambda read=read: read(Path(place)), name)


@FUZZED
@given(changed(STRUCTURE))
def test_altered_structure_is_read_or_told(tree: Any) -> None:
    in_file("lineage.json", json.dumps(tree).encode(), read_structure)


@FUZZED
@given(changed(MLMODEL))
def test_altered_mlmodel_is_read_or_told(tree: Any) -> None:
    in_file("MLmodel", yaml.safe_dump(tree).encode(), files_digest, require_own_loader)


@FUZZED
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_read_or_told(content: bytes) -> None:
    in_file("lineage.json", content, read_structure)
    in_file("MLmodel", content, files_digest, require_own_loader)


@FUZZED
@given(changed(TAGS), st.sampled_from(sorted(TAGS)), changed(MEMBER))
def test_altered_tags_are_read_or_told(tags: dict[str, Any], chosen: str, value: Any) -> None:
    texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in tags.items()}
    for given_tags in (texts, texts | {chosen: json.dumps(value)}):
        entity = ModelVersion(
            "digits", "2", 0, source="models:/m-2", tags=[ModelVersionTag(*tag) for tag in given_tags.items()]
        )
        assert_told(lambda entity=entity: from_model_version(entity), "models:/digits/2")


@FUZZED
@given(VALUES)
def test_options_of_any_type_are_told(width: Any) -> None:
    if isinstance(width, int | float) and 0 < width < 2**62:
        return  # a network of that width, which may be large
    tree = STRUCTURE | {"network": {"name": "resnet8", "options": {"width": width}}}
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "lineage.json").write_text(json.dumps(tree))
        (Path(place) / "weights.safetensors").write_bytes(b"")
        assert_told(lambda: read_network(Path(place), read_structure(Path(place))), "resnet8", "weights")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mean": [0.5, 0.5]}, r"'data\.mean': there must be 3 finite numbers"),
        ({"std": [1, 1, 0]}, r"'data\.std': numbers must be positive"),
        ({"input_shape": [3, 8]}, r"'data\.input_shape"),
        ({"superclasses": [0, 1, 1]}, r"'data\.superclasses': there must be 2, not 3"),
        ({"class_names": "red"}, r"'data\.class_names'"),
    ],
)
def test_data_description_that_does_not_fit_itself_is_told_by_field(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    (tmp_path / "lineage.json").write_text(json.dumps(STRUCTURE | {"data": DATA | change}))
    with pytest.raises(IntegrityError, match=rf"^lineage\.json must be what .*{field}"):
        read_structure(tmp_path)


def test_schema_without_bound_is_told(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(json.dumps(STRUCTURE).replace('"schema": 1', '"schema": 1e999'))
    with pytest.raises(IntegrityError, match=r"^lineage\.json must be what .*'schema'"):
        read_structure(tmp_path)


@pytest.mark.parametrize(
    ("tag", "value", "field"),
    [
        ("generation", "-1", "'generation'"),
        ("seed", "x", "'seed'"),
        ("kind", "pet", "'kind'"),
        ("metrics", "[1, 2, 3]", "'metrics'"),
        ("metrics", "[" * 5000, "'metrics'"),
        ("member.0", '{"id": 3}', "'member.0"),
        ("member.0", json.dumps(MEMBER | {"weight": -1}), "'member.0'.*weight"),
        ("root", "nobody", "NAME/VERSION, but is 'nobody'"),
    ],
)
def test_altered_tag_is_named(tag: str, value: str, field: str) -> None:
    tags = TAGS | {f"lineage.{tag}": value}
    entity = ModelVersion("digits", "2", 0, tags=[ModelVersionTag(*each) for each in tags.items()])
    with pytest.raises(IntegrityError, match=f"^The tags of models:/digits/2 must be .*{field}"):
        from_model_version(entity)
