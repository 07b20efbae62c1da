import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.errors import NotFoundError
from lineage.registry.care.checks import Diagnosis
from lineage.registry.care.doctor import examine
from lineage.registry.care.remove import remove
from lineage.registry.family.family import Member, Version
from lineage.registry.family.history import ALIAS, read_history
from lineage.registry.family.lookup import find_version, read_family

GrowOne = Callable[..., Version]

_SLOWLY = [pytest.param(store, marks=pytest.mark.slow) for store in ("http", "postgres")]

on_postgres_too = pytest.mark.parametrize("registry", ["sqlite", _SLOWLY[0], "postgres"], indirect=True)
"""Marks what depends on the store, and a test of each kind of repair: aliases, cards, runs, edges."""


@pytest.fixture(params=["sqlite", *_SLOWLY])
def registry(request: pytest.FixtureRequest) -> Any:
    """Each of the three stores, in turn; sqlite alone in ``make test``."""
    return request.getfixturevalue(f"{request.param}_registry")


@pytest.fixture
def grow_one(name: str, add_version: Callable[..., Version], log_one: Callable[..., Any]) -> GrowOne:
    """Registers a generation of a model of its own, whose run is finished."""

    def grow(teacher: Version | None = None, family: str = name, **changes: Any) -> Version:
        logged = log_one(experiment=family)
        version = add_version(teacher, logged=logged, family=family, **changes)
        logged.run.finish(version)
        return version

    return grow


@pytest.fixture
def family(registry: Any, grow_one: GrowOne) -> list[Version]:
    """A healthy patriarch, student and grandchild."""
    return _chain(grow_one)


@pytest.fixture
def sqlite_family(sqlite_registry: Any, grow_one: GrowOne) -> list[Version]:
    """A healthy patriarch, student and grandchild in sqlite, for tests that write to the database."""
    return _chain(grow_one)


def _chain(grow_one: GrowOne) -> list[Version]:
    versions = [grow_one(metrics={"validation_accuracy": 0.5})]
    for accuracy in (0.7, 0.6):
        versions.append(grow_one(versions[-1], metrics={"validation_accuracy": accuracy}))
    return versions


def look(name: str, **options: Any) -> Diagnosis:
    return examine(name, lambda _: False, **options)


def found(diagnosis: Diagnosis) -> set[tuple[str, str]]:
    return {(finding.check, finding.subject) for finding in diagnosis.findings}


@on_postgres_too
def test_healthy_family_is_reported_healthy(name: str, family: list[Version]) -> None:
    diagnosis = look(name)
    assert diagnosis.findings == ()
    assert (diagnosis.healthy, diagnosis.num_versions) == (True, 3)


@on_postgres_too
def test_family_with_branches_members_and_edges_to_other_families_is_healthy(
    name: str, family: list[Version], grow_one: GrowOne
) -> None:
    other = grow_one(family=f"{name}-other")
    student = grow_one(other)
    members = tuple(
        Member(version.id, version.model_id, version.weights_sha256, 0.5) for version in (family[0], other)
    )
    grow_one(kind="ensemble", members=members)
    grow_one(student)
    assert look(name).findings == ()


def test_dangling_teacher_is_found_and_cannot_be_completed(name: str, family: list[Version]) -> None:
    MlflowClient().delete_model_version(name, "1")
    diagnosis = look(name, fix=True)
    (finding,) = diagnosis.findings
    assert (finding.check, finding.subject) == ("dangling-teacher", f"models:/{name}/2")
    assert finding.problem == (
        f"models:/{name}/2 must have its teacher {name}/1 in the store, but that is not there"
    )
    assert finding.remedy.startswith("cannot be completed: restore the store from a backup")
    assert diagnosis.fixed == ()


def test_missing_weights_are_found(name: str, family: list[Version], registry: Any) -> None:
    registry.weights_file(family[1]).unlink()
    assert found(look(name)) == {("missing-weights", f"models:/{name}/2")}


def test_deleted_logged_model_is_found(name: str, family: list[Version]) -> None:
    MlflowClient().delete_logged_model(family[2].model_id)
    assert found(look(name)) == {("missing-weights", f"models:/{name}/3")}


def test_missing_artifacts_are_found(name: str, family: list[Version], registry: Any) -> None:
    shutil.rmtree(registry.weights_file(family[0]).parent)
    assert found(look(name)) == {("missing-weights", f"models:/{name}/1")}


def test_altered_weights_are_found_unless_weights_are_skipped(
    name: str, family: list[Version], registry: Any
) -> None:
    file = registry.weights_file(family[1])
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    assert found(look(name)) == {("altered-weights", f"models:/{name}/2")}
    assert look(name, weights=False).healthy


@on_postgres_too
def test_run_that_gave_no_version_is_found_and_killed_only_when_asked(
    name: str, family: list[Version], open_run: Callable[..., Any]
) -> None:
    run = open_run(experiment=name)
    (finding,) = look(name, fix=True).findings
    assert (finding.check, finding.subject) == ("half-finished", f"run {run.run_id}")
    assert "must have given a version, but is RUNNING, at epoch 0" in finding.problem
    assert examine(name, lambda key: key == "k", fix=True, kill_runs=True).findings[0].repair is None
    diagnosis = look(name, fix=True, kill_runs=True)
    assert (diagnosis.healthy, [fixed.check for fixed in diagnosis.fixed]) == (True, ["half-finished"])
    assert MlflowClient().get_run(run.run_id).info.status == "KILLED"


def test_failed_run_is_found_until_its_generation_is_registered(
    name: str, family: list[Version], open_run: Callable[..., Any], grow_one: GrowOne
) -> None:
    open_run(experiment=name).stop("FAILED")
    assert [finding.check for finding in look(name).findings] == ["half-finished"]
    grow_one(family[2], key="k")
    assert look(name).healthy


def test_run_left_open_after_it_gave_its_version_is_closed(
    name: str, family: list[Version], add_version: Callable[..., Version], log_one: Callable[..., Any]
) -> None:
    logged = log_one(experiment=name)
    version = add_version(family[2], logged=logged, key="k")
    assert found(look(name)) == {("open-run", version.uri)}
    assert look(name, fix=True).healthy
    run = MlflowClient().get_run(version.run_id)
    assert (run.info.status, run.data.tags["lineage.version"]) == ("FINISHED", version.id)


def test_logged_model_that_nobody_registered_is_deleted_unless_its_run_is_open(
    name: str, family: list[Version], log_one: Callable[..., Any]
) -> None:
    logged = log_one(experiment=name)
    (model,) = [one for one in look(name, fix=True).findings if one.check == "unregistered-model"]
    assert (model.subject, model.repair) == (logged.model_id, None)
    logged.run.stop("KILLED")
    assert found(look(name)) == {("unregistered-model", logged.model_id)}
    diagnosis = look(name, fix=True)
    assert diagnosis.healthy
    assert [one.subject for one in diagnosis.fixed] == [logged.model_id]


def test_logged_model_of_a_removed_version_is_no_finding(name: str, family: list[Version]) -> None:
    remove(family[2].uri)
    remove(family[0].uri, force=True)
    assert look(name).findings == ()


def test_edge_to_a_re_created_name_is_found(name: str, family: list[Version], grow_one: GrowOne) -> None:
    other = f"{name}-other"
    student = grow_one(grow_one(family=other))
    MlflowClient().delete_registered_model(other)
    again = grow_one(family=other)
    (finding,) = look(name).findings
    assert (finding.check, finding.subject) == ("re-created-name", student.uri)
    assert f"the {other}/1 of model id" in finding.problem
    assert f"but that has {again.model_id}" in finding.problem


def test_edge_to_other_weights_is_found(name: str, family: list[Version]) -> None:
    MlflowClient().set_model_version_tag(name, "2", "lineage.teacher_sha256", "f" * 64)
    (finding,) = look(name).findings
    assert (finding.check, finding.subject) == ("re-created-name", f"models:/{name}/2")
    assert f"of weights {'f' * 64}" in finding.problem


@on_postgres_too
def test_renamed_family_gets_its_edges_back(name: str, family: list[Version]) -> None:
    new = f"{name}-new"
    MlflowClient().rename_registered_model(name, new)
    diagnosis = look(new)
    assert found(diagnosis) >= {("dangling-teacher", f"models:/{new}/{number}") for number in (2, 3)}
    assert look(new, fix=True).findings == ()
    renamed = read_family(new)
    assert [version.version for version in renamed.ancestors(renamed.versions[2])] == [2, 1]
    assert renamed.versions[2].root == f"{new}/1"


def test_alias_at_nothing_is_found_and_taken_away(
    name: str, sqlite_family: list[Version], sqlite_registry: Any
) -> None:
    MlflowClient().set_registered_model_alias(name, "champion", "1")
    with closing(sqlite3.connect(sqlite_registry.uri.removeprefix("sqlite:///"))) as database, database:
        database.execute(
            "UPDATE registered_model_aliases SET version = 99 WHERE alias = 'champion' AND name = ?", [name]
        )
    assert found(look(name)) == {("alias-at-nothing", "@champion")}
    assert look(name, fix=True).healthy
    last = read_history(name)[-1]
    assert (last.event, last.alias, last.version, last.previous) == (ALIAS, "champion", None, 99)


@pytest.mark.parametrize(("alias", "right"), [("best", 2), ("latest-generation", 3)])
def test_misplaced_alias_is_found_and_moved(name: str, family: list[Version], alias: str, right: int) -> None:
    MlflowClient().set_registered_model_alias(name, alias, "1")
    (finding,) = look(name).findings
    assert (finding.check, finding.subject) == ("misplaced-alias", f"@{alias}")
    assert finding.problem == f"The alias {alias} must point to {name}/{right}, but points to {name}/1"
    assert look(name, fix=True).healthy
    assert find_version(f"models:/{name}@{alias}").version == right


@on_postgres_too
def test_absent_alias_is_found_and_set(name: str, family: list[Version]) -> None:
    MlflowClient().delete_registered_model_alias(name, "best")
    assert found(look(name)) == {("misplaced-alias", "@best")}
    assert look(name, fix=True).healthy


@pytest.mark.parametrize(("end", "within"), [(3, {1, 2, 3}), (1, {1})], ids=["circle", "self"])
def test_circles_are_found(name: str, family: list[Version], end: int, within: set[int]) -> None:
    teacher = family[end - 1]
    tags = {"teacher": teacher.id, "teacher_model_id": teacher.model_id}
    tags |= {"teacher_sha256": teacher.weights_sha256}
    for tag, value in tags.items():
        MlflowClient().set_model_version_tag(name, "1", f"lineage.{tag}", value)
    circles = {subject for check, subject in found(look(name)) if check == "circle"}
    assert circles == {f"models:/{name}/{number}" for number in within}


def test_card_without_its_link_is_found_and_written(name: str, family: list[Version]) -> None:
    client = MlflowClient()
    client.update_model_version(name, "1", description="Our first.")
    client.update_model_version(name, "3", description="")
    assert found(look(name)) == {("broken-card", f"models:/{name}/{number}") for number in (1, 3)}
    assert look(name, fix=True).healthy
    text = client.get_model_version(name, "1").description
    assert text == f"Our first.\n- students: [{name}/2](#/models/{name}/versions/2)"


@on_postgres_too
def test_card_without_its_link_to_another_family_is_found_and_written(
    name: str, family: list[Version], grow_one: GrowOne
) -> None:
    student = grow_one(family[2], family=f"{name}-other")
    client = MlflowClient()
    text = client.get_model_version(name, "3").description
    assert student.id in text
    client.update_model_version(name, "3", description=text.replace(student.id, "nobody/1"))
    assert found(look(name)) == {("broken-card", f"models:/{name}/3")}
    assert look(name, fix=True).healthy
    assert client.get_model_version(name, "3").description == text


def test_ensemble_whose_member_is_gone_is_found(name: str, family: list[Version], grow_one: GrowOne) -> None:
    extra = grow_one()
    member = Member(extra.id, extra.model_id, extra.weights_sha256, 1.0)
    ensemble = grow_one(kind="ensemble", members=(member,))
    MlflowClient().delete_model_version(name, str(extra.version))
    (finding,) = look(name).findings
    assert (finding.check, finding.subject) == ("dangling-member", ensemble.uri)
    assert f"its member {extra.id}" in finding.problem


def test_altered_tags_are_found_and_the_rest_is_still_examined(name: str, family: list[Version]) -> None:
    MlflowClient().set_model_version_tag(name, "3", "lineage.generation", "third")
    assert ("unreadable-version", f"models:/{name}/3") in found(look(name, fix=True))


def test_tombstone_of_a_version_that_is_there_is_found(name: str, family: list[Version]) -> None:
    remove(family[0].uri, force=True)
    client = MlflowClient()
    (text,) = [v for k, v in client.get_registered_model(name).tags.items() if "removed" in k]
    tombstone = text.replace('"version": 1,', '"version": 2,')
    client.set_registered_model_tag(name, "lineage.removed.2", tombstone)
    assert found(look(name)) == {("unfinished-removal", f"models:/{name}/2")}
    assert look(name, fix=True).healthy


@on_postgres_too
def test_several_faults_are_all_found_and_only_what_cannot_be_completed_is_left(
    name: str, family: list[Version], registry: Any
) -> None:
    registry.weights_file(family[1]).unlink()
    MlflowClient().set_registered_model_alias(name, "best", "1")
    MlflowClient().update_model_version(name, "2", description="")
    diagnosis = look(name, fix=True)
    assert found(diagnosis) == {("missing-weights", f"models:/{name}/2")}
    assert {fixed.check for fixed in diagnosis.fixed} == {"misplaced-alias", "broken-card"}


def test_family_that_is_not_there_is_not_found(registry: Any, name: str) -> None:
    with pytest.raises(NotFoundError, match=f"holds no registered model '{name}'"):
        look(name)
