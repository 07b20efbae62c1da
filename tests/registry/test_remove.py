import json
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.errors import IntegrityError, NotFoundError
from lineage.registry.care.remove import read_tombstones, remove, remove_family
from lineage.registry.family.family import Member, Version
from lineage.registry.family.lookup import find_version, read_family

AddVersion = Callable[..., Version]


def test_version_that_nobody_needs_is_removed(registry: Any, name: str, add_version: AddVersion) -> None:
    patriarch = add_version(metrics={"validation_accuracy": 0.5})
    student = add_version(patriarch, metrics={"validation_accuracy": 0.6})
    removal = remove(f"models:/{name}@best")
    assert (removal.version.id, removal.orphans, removal.tombstone) == (student.id, (), False)
    assert [version.version for version in read_family(name)] == [1]
    assert find_version(f"models:/{name}@best").version == 1
    assert "students" not in MlflowClient().get_model_version(name, "1").description
    assert read_tombstones(name) == ()


def test_removal_is_refused_while_descendants_need_it(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    patriarch = add_version()
    first, second = add_version(patriarch), add_version(patriarch)
    add_version(first)
    with pytest.raises(IntegrityError) as caught:
        remove(patriarch.uri)
    assert str(caught.value) == (
        f"{patriarch.uri} must have no descendants to be removed, but {first.uri}, {second.uri} need it, with"
        " 1 further descendant; remove those first, or leave a tombstone with --force."
    )
    assert len(read_family(name)) == 4


def test_removal_is_refused_while_an_ensemble_needs_it(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    version = add_version()
    member = Member(version.id, version.model_id, version.weights_sha256, 1.0)
    ensemble = add_version(family=f"{name}-ensembles", kind="ensemble", members=(member,))
    with pytest.raises(IntegrityError, match=f"but {ensemble.uri} needs it; remove"):
        remove(version.uri)


def test_removal_is_refused_while_a_student_of_another_family_needs_it(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    teacher = add_version()
    student = add_version(teacher, family=f"{name}-other")
    with pytest.raises(IntegrityError, match=f"but {student.uri} needs it"):
        remove(teacher.uri)


def test_removal_by_force_leaves_a_tombstone_that_tells_what_the_version_was(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    patriarch = add_version()
    teacher = add_version(patriarch, metrics={"test_accuracy": 0.75})
    student = add_version(teacher)
    removal = remove(teacher.uri, force=True)
    assert (removal.orphans, removal.tombstone) == ((student,), True) or removal.orphans[0].id == student.id
    (tombstone,) = read_tombstones(name)
    assert tombstone.version.id == teacher.id
    assert (tombstone.version.teacher, tombstone.version.metrics) == (patriarch.id, {"test_accuracy": 0.75})
    assert (tombstone.version.model_id, tombstone.version.key) == (teacher.model_id, teacher.key)
    assert tombstone.removed > teacher.created


def test_removed_version_keeps_its_run_and_its_logged_model(registry: Any, add_version: AddVersion) -> None:
    version = add_version()
    remove(version.uri)
    assert MlflowClient().get_logged_model(version.model_id).model_id == version.model_id
    assert MlflowClient().get_run(version.run_id).info.lifecycle_stage == "active"


def test_tombstone_of_many_metrics_fits_a_database(registry: Any, name: str, add_version: AddVersion) -> None:
    version = add_version(metrics={f"metric_{number}": number / 7 for number in range(400)})
    remove(version.uri, force=True)
    (tombstone,) = read_tombstones(name)
    assert (tombstone.version.id, tombstone.version.metrics) == (version.id, {})


def test_tombstones_of_a_model_that_is_not_there_are_none(registry: Any, name: str) -> None:
    assert read_tombstones(name) == ()


def test_version_that_is_not_there_is_not_found(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    with pytest.raises(NotFoundError, match=f"holds no models:/{name}/7"):
        remove(f"models:/{name}/7")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "two", "metrics": None},
        {"metrics": {"test_accuracy": "high"}},
        {"members": [1]},
        {"members": [{"id": "digits/1"}]},
        {"generation": None},
        {"removed": "yesterday"},
        {"removed": [1]},
    ],
)
def test_altered_tombstone_is_none(
    sqlite_registry: Any, name: str, add_version: AddVersion, changes: Any
) -> None:
    patriarch = add_version()
    add_version(patriarch)
    remove(patriarch.uri, force=True)
    client = MlflowClient()
    tags = client.get_registered_model(name).tags
    contents = json.loads(tags["lineage.removed.1"]) | changes
    client.set_registered_model_tag(name, "lineage.removed.2", json.dumps(contents))
    client.set_registered_model_tag(name, "lineage.removed.3", "[" * 5000)
    client.set_registered_model_tag(name, "lineage.removed.last", tags["lineage.removed.1"])
    assert [tombstone.version.version for tombstone in read_tombstones(name)] == [1]


def test_family_is_removed_whole_unless_another_one_needs_it(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    teacher = add_version()
    add_version(teacher)
    other = f"{name}-other"
    student = add_version(teacher, family=other)
    with pytest.raises(IntegrityError) as caught:
        remove_family(name)
    assert str(caught.value) == (
        f"'{name}' must have no descendants in other families to be removed, but {student.uri} needs it;"
        " remove those first."
    )
    assert len(read_family(name)) == 2

    assert [version.id for version in remove_family(other)] == [student.id]
    with pytest.raises(NotFoundError):
        read_family(other)
    assert "other" not in MlflowClient().get_model_version(name, "1").description
    assert len(remove_family(name)) == 2
    with pytest.raises(NotFoundError):
        remove_family(name)


def test_family_with_versions_of_other_programs_stays(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    version = add_version()
    MlflowClient().create_model_version(name, f"models:/{version.model_id}", model_id=version.model_id)
    with pytest.raises(IntegrityError, match="must be of lineage for it to be removed, but 1 of 2 are not"):
        remove_family(name)
    assert len(read_family(name)) == 1
