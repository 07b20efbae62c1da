import json
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
import torch
from mlflow import MlflowClient
from sqlalchemy import Engine, event
from torch import Tensor
from warm import WarmProcess

from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.registry.care.remove import remove
from lineage.registry.family.cards import card
from lineage.registry.family.family import Member, Version
from lineage.registry.family.lookup import find_version, read_ancestors, read_family
from lineage.registry.family.register import NewVersion, settle
from lineage.registry.flavor import LoadedModel, load_version

AddVersion = Callable[..., Version]

AWKWARD = ["it's", 'say "hi"', "both ' and \" \\", "v1.0 50% a@b #1 ü"]


def stored(version: Version) -> Any:
    return MlflowClient().get_model_version(version.name, str(version.version))


def aliases(name: str) -> dict[str, int]:
    return {k: int(v) for k, v in MlflowClient().get_registered_model(name).aliases.items()}


@pytest.fixture
def plain(registry: Any, name: str, log_one: Callable[..., Any]) -> str:
    """A registered model that plain MLflow made, with one version."""
    model_id = log_one().model_id
    MlflowClient().create_registered_model(name)
    MlflowClient().create_model_version(name, f"models:/{model_id}", model_id=model_id)
    return name


# Registering


def test_patriarch_has_the_tags_of_the_design_and_no_others(registry: Any, add_version: AddVersion) -> None:
    version = add_version(key="k", metrics={"test_accuracy": 0.5, "seconds": 2.0})
    assert stored(version).tags == {
        "lineage.schema": "1",
        "lineage.kind": "generation",
        "lineage.generation": "0",
        "lineage.objective": "tolerant",
        "lineage.seed": "3",
        "lineage.recipe_digest": "r" * 64,
        "lineage.key": "k",
        "lineage.metrics": '{"test_accuracy": 0.5, "seconds": 2.0}',
        "lineage.weights_sha256": version.weights_sha256,
        "lineage.files_sha256": version.files_sha256,
    }


def test_student_is_pinned_to_version_model_and_weights_of_its_teacher(
    registry: Any, add_version: AddVersion
) -> None:
    patriarch = add_version()
    first = add_version(patriarch)
    tags = stored(add_version(first)).tags
    assert {key: value for key, value in tags.items() if "teacher" in key or "root" in key} == {
        "lineage.teacher": first.id,
        "lineage.teacher_model_id": first.model_id,
        "lineage.teacher_sha256": first.weights_sha256,
        "lineage.root": patriarch.id,
    }
    assert first.model_id.startswith("m-")
    assert (tags["lineage.generation"], tags["lineage.objective"]) == ("2", "student")


def test_version_is_created_whole_in_one_call(http_registry: Any, add_version: AddVersion) -> None:
    patriarch = add_version()
    requests_made = http_registry.requests_during(lambda: add_version(patriarch))
    writes = [line for line in requests_made if "model-versions" in line and "search" not in line]
    assert ["create" in line or "update" in line for line in writes] == [True, True]
    assert "PATCH" in writes[1]  # of the teacher's card


def test_register_returns_what_a_later_reader_finds(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    patriarch = add_version()
    student = add_version(patriarch)
    assert read_family(name).versions[1] == student == find_version(student.uri)
    assert (student.teacher, student.generation, student.seed) == (patriarch.id, 1, 3)
    assert student.run_id == patriarch.run_id != ""
    assert student.created > 0


def test_version_points_to_its_logged_model(
    registry: Any, add_version: AddVersion, log_one: Callable[..., Any]
) -> None:
    logged = log_one()
    version = add_version(logged=logged)
    assert (version.model_id, version.run_id) == (logged.model_id, logged.run.run_id)


@pytest.mark.parametrize("awkward", AWKWARD)
def test_names_may_hold_quotes_and_other_signs(
    registry: Any,
    add_version: AddVersion,
    log_one: Callable[..., Any],
    model: LoadedModel,
    name: str,
    awkward: str,
) -> None:
    family = f"{awkward} {name}"
    logged = log_one(experiment=family)
    patriarch = add_version(logged=logged, family=family, objective='it\'s "so"')
    student = add_version(patriarch, logged=logged, family=family)
    assert [version.version for version in read_family(family)] == [1, 2]
    assert find_version(patriarch.uri).objective == 'it\'s "so"'
    assert find_version(f"models:/{family}@latest-generation") == student
    assert torch.equal(
        load_version(student).network.state_dict()["classifier.weight"],
        model.network.state_dict()["classifier.weight"],
    )


def test_names_that_look_alike_stay_apart(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version(family=f"{name}'s")
    add_version(family=f"{name}_s")
    add_version(family=f"{name}xs")
    assert [version.name for version in read_family(f"{name}'s")] == [f"{name}'s"]
    assert [version.name for version in read_family(f"{name}_s")] == [f"{name}_s"]


def test_threads_that_register_at_a_time_leave_a_whole_family(
    registry: Any, name: str, add_version: AddVersion, log_one: Callable[..., Any]
) -> None:
    logged = log_one()
    with ThreadPoolExecutor(4) as pool:
        patriarchs = list(pool.map(lambda seed: add_version(logged=logged, seed=seed), range(4)))
        list(pool.map(lambda patriarch: add_version(patriarch, logged=logged), patriarchs))
    family = settle(name)
    assert [version.version for version in family] == list(range(1, 9))
    assert sorted(version.seed for version in family.roots) == [0, 1, 2, 3]
    assert aliases(name) == {"latest-generation": 8}
    for patriarch in patriarchs:
        (student,) = family.students(patriarch)
        assert f"(#/models/{name}/versions/{student.version})" in stored(patriarch).description


OTHER_PROCESS = """
import sys, time
from pathlib import Path
from lineage.registry.family.register import NewVersion, register
name, model_id, run_id = sys.argv[1:]
Path("ready").touch()
while not Path("go").exists():
    time.sleep(0.001)
for generation in range(3):
    register(name, NewVersion(generation, None, "tolerant", 1, "", "", {}, ""), model_id, run_id)
"""


def test_processes_that_register_at_a_time_do_not_lose_a_version(
    sqlite_registry: Any, home: Path, name: str, add_version: AddVersion, log_one: Callable[..., Any]
) -> None:
    logged = log_one()
    command = ["-c", OTHER_PROCESS, name, logged.model_id, logged.run.run_id]
    other = WarmProcess(command, home, stderr=subprocess.PIPE)
    while not (home / "ready").exists() and other.poll() is None:
        time.sleep(0.01)
    (home / "go").touch()
    for generation in range(3):
        add_version(logged=logged, generation=generation, seed=0)
    errors = other.communicate(timeout=60)[1]
    assert other.returncode == 0, errors
    assert sorted((version.seed, version.generation) for version in settle(name)) == [
        (seed, generation) for seed in (0, 1) for generation in range(3)
    ]
    newest = max(version.version for version in read_family(name) if version.generation == 2)
    assert aliases(name) == {"latest-generation": newest}


# Cards


def test_card_of_a_patriarch_says_so(registry: Any, add_version: AddVersion) -> None:
    version = add_version(metrics={"test_accuracy": 0.9312})
    assert stored(version).description.splitlines() == [
        f"**Generation 0** of {version.name} · tolerant · seed 3",
        "",
        "- test accuracy 93.12%",
        "- patriarch: no teacher",
    ]


def test_card_of_a_student_links_its_teacher(registry: Any, add_version: AddVersion) -> None:
    teacher = add_version(metrics={"test_accuracy": 0.25})
    lines = stored(add_version(teacher, metrics={"test_accuracy": 0.75})).description.splitlines()
    assert lines[2:] == [
        "- test accuracy 75.00% (teacher 25.00%)",
        f"- teacher: [{teacher.id}](#/models/{teacher.name}/versions/{teacher.version})",
    ]


def test_card_of_the_teacher_links_its_students(registry: Any, name: str, add_version: AddVersion) -> None:
    patriarch = add_version()
    teacher = add_version(patriarch)
    for _ in range(2):
        add_version(teacher)
    lines = stored(teacher).description.splitlines()
    assert lines[3:] == [
        f"- teacher: [{name}/1](#/models/{name}/versions/1)",
        f"- students: [{name}/3](#/models/{name}/versions/3), [{name}/4](#/models/{name}/versions/4)",
    ]
    assert f"- students: [{name}/2](#/models/{name}/versions/2)" in stored(patriarch).description


def test_card_links_twenty_students_and_counts_the_others(registry: Any, add_version: AddVersion) -> None:
    teacher = add_version()
    students = [f"{teacher.name}/{number}" for number in range(2, 24)]
    assert card(teacher, None, students[:20]).count("](#/models/") == 20
    text = card(teacher, None, students)
    assert text.count("](#/models/") == 20
    assert text.endswith(f"/versions/21) and {len(students) - 20} more")


def test_card_of_a_teacher_links_students_that_stand_elsewhere(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    teacher = add_version()
    add_version(family=f"{name}xs")
    students = [add_version(teacher, family=f"{name}-{place}") for place in ("b", "a")]
    own = add_version(teacher)
    *_, line = stored(teacher).description.splitlines()
    links = [f"[{student.id}](#/models/{student.name}/versions/1)" for student in students]
    assert line == f"- students: [{own.id}](#/models/{name}/versions/{own.version}), {', '.join(links)}"
    settle(name)
    assert stored(teacher).description.splitlines()[-1] == line
    remove(students[0].uri)
    assert links[0] not in stored(teacher).description
    assert links[1] in stored(teacher).description


def test_card_of_an_ensemble_links_its_members(registry: Any, add_version: AddVersion) -> None:
    first = add_version()
    second = add_version(first)
    members = tuple(Member(v.id, v.model_id, v.weights_sha256, 0.5) for v in (first, second))
    ensemble = add_version(kind="ensemble", objective="ensemble", generation=1, members=members)
    links = [f"[{v.id}](#/models/{v.name}/versions/{v.version})" for v in (first, second)]
    lines = stored(ensemble).description.splitlines()
    assert lines[0].startswith("**Ensemble, generation 1** of ")
    assert lines[3:] == [f"- members: {', '.join(links)}"]


def test_card_of_an_adopted_network_says_so(registry: Any, add_version: AddVersion) -> None:
    version = add_version(kind="adopted", objective="adopted", metrics={})
    assert stored(version).description.splitlines() == [
        f"**Adopted network, generation 0** of {version.name}",
        "",
        "- no teacher: it was trained elsewhere",
    ]


def test_card_without_an_accuracy_leaves_it_out(registry: Any, add_version: AddVersion) -> None:
    assert "accuracy" not in stored(add_version(add_version(), metrics={})).description


def test_link_to_a_name_with_spaces_is_escaped(registry: Any, add_version: AddVersion, name: str) -> None:
    student = add_version(add_version(family=f"my {name} (new)"), family=f"my {name} (new)")
    assert f"(#/models/my%20{name}%20%28new%29/versions/1)" in stored(student).description


def test_settle_repairs_links_that_a_crash_left_out(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    patriarch = add_version()
    add_version(patriarch)
    add_version(add_version())
    client = MlflowClient()
    client.update_model_version(name, str(patriarch.version), description="")
    settle(name)
    assert f"- students: [{name}/2]" in stored(patriarch).description


def test_settle_leaves_a_card_that_somebody_wrote_to(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    patriarch = add_version()
    add_version(patriarch)
    text = "Best of all.\n" + stored(patriarch).description
    MlflowClient().update_model_version(name, str(patriarch.version), description=text)
    settle(name)
    assert stored(patriarch).description == text


# Aliases


def test_aliases_follow_accuracy_and_generation(registry: Any, name: str, add_version: AddVersion) -> None:
    patriarch = add_version(metrics={"validation_accuracy": 0.8})
    assert aliases(name) == {"best": 1, "latest-generation": 1}
    add_version(patriarch, metrics={"validation_accuracy": 0.9})
    assert aliases(name) == {"best": 2, "latest-generation": 2}
    add_version(metrics={"validation_accuracy": 0.85})
    assert aliases(name) == {"best": 2, "latest-generation": 2}
    latest = add_version(patriarch, metrics={"validation_accuracy": 0.7})
    assert aliases(name) == {"best": 2, "latest-generation": 4}
    assert latest.aliases == ("latest-generation",)
    assert [version.aliases for version in read_family(name)] == [(), ("best",), (), ("latest-generation",)]


def test_best_of_equals_is_the_oldest(registry: Any, name: str, add_version: AddVersion) -> None:
    for _ in range(2):
        add_version(metrics={"validation_accuracy": 0.8})
    assert aliases(name)["best"] == 1


def test_nothing_is_best_without_a_validation_accuracy(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    add_version(metrics={"test_accuracy": 1.0})
    assert aliases(name) == {"latest-generation": 1}


def test_settle_puts_aliases_right_and_changes_nothing_twice(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    patriarch = add_version(metrics={"validation_accuracy": 0.8})
    add_version(patriarch, metrics={"validation_accuracy": 0.9})
    client = MlflowClient()
    client.set_registered_model_alias(name, "best", "1")
    client.set_registered_model_alias(name, "mine", "1")
    client.delete_registered_model_alias(name, "latest-generation")
    family = settle(name)
    assert aliases(name) == {"best": 2, "latest-generation": 2, "mine": 1}
    assert family == read_family(name) == settle(name)


def test_settle_takes_away_a_best_that_is_none(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    MlflowClient().set_registered_model_alias(name, "best", "1")
    assert settle(name).versions[0].aliases == ("latest-generation",)


def test_settle_after_the_best_was_deleted_names_the_next(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    for accuracy in (0.7, 0.9, 0.8):
        add_version(metrics={"validation_accuracy": accuracy})
    MlflowClient().delete_model_version(name, "2")
    settle(name)
    assert aliases(name) == {"best": 3, "latest-generation": 3}


def test_settle_that_finds_all_in_order_writes_nothing(
    http_registry: Any, name: str, add_version: AddVersion
) -> None:
    add_version(add_version())
    requests_made = http_registry.requests_during(lambda: settle(name))
    assert len(requests_made) == 3
    assert all('"GET' in line for line in requests_made)


# Reading


def test_family_is_one_search(http_registry: Any, name: str, add_version: AddVersion) -> None:
    for _ in range(3):
        add_version()
    requests_made = http_registry.requests_during(lambda: read_family(name))
    assert [line.split("mlflow/")[1].split("?")[0] for line in requests_made] == [
        "registered-models/search",
        "model-versions/search",
    ]


def test_two_thousand_versions_are_read_by_a_few_queries(
    sqlite_registry: Any, name: str, add_version: AddVersion
) -> None:
    add_version(metrics={"validation_accuracy": 0.8})
    numbers = "WITH RECURSIVE n(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < 2000) INSERT INTO"
    file = sqlite_registry.uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(file)) as database, database:
        for table in ("model_versions", "model_version_tags"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            chosen = ", ".join("n" if column == "version" else f"{table}.{column}" for column in columns)
            database.execute(f"{numbers} {table} SELECT {chosen} FROM {table}, n WHERE name = ?", [name])
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    family = read_family(name)
    event.remove(Engine, "before_cursor_execute", note)
    assert 0 < len(statements) < 30
    assert [version.version for version in family] == list(range(1, 2001))
    assert family.versions[-1].metrics == {"validation_accuracy": 0.8}


def test_family_that_is_not_there_is_not_found(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    near = name[:-1]
    with pytest.raises(NotFoundError) as caught:
        read_family(near)
    assert str(caught.value) == (
        f"The store {registry.uri} holds no registered model '{near}'. Did you mean '{name}'?"
    )
    assert len(read_family(near, missing_ok=True)) == 0


@pytest.mark.parametrize("impossible", ["a/b", "a:b", "", " "])
@pytest.mark.parametrize("missing_ok", [True, False])
def test_family_of_an_impossible_name_is_refused(registry: Any, impossible: str, missing_ok: bool) -> None:
    with pytest.raises(UsageError, match=f"without '/' and ':', but got '{impossible}'"):
        read_family(impossible, missing_ok)


def test_model_of_plain_mlflow_is_an_empty_family(plain: str) -> None:
    assert len(read_family(plain)) == 0


def test_version_of_plain_mlflow_is_refused(plain: str) -> None:
    MlflowClient().set_registered_model_alias(plain, "champion", "1")
    for uri in (f"models:/{plain}/1", f"models:/{plain}@champion"):
        with pytest.raises(IntegrityError) as caught:
            find_version(uri)
        assert str(caught.value) == (
            f"{uri} must be a version that lineage registered, but has no tags of it; name another."
        )


def test_family_may_stand_in_a_model_of_plain_mlflow(plain: str, add_version: AddVersion) -> None:
    MlflowClient().set_registered_model_alias(plain, "best", "1")
    version = add_version(metrics={"validation_accuracy": 0.1})
    assert (version.version, version.aliases) == (2, ("best", "latest-generation"))
    assert read_family(plain).versions == (version,)


def test_version_is_found_by_number_and_by_alias(registry: Any, name: str, add_version: AddVersion) -> None:
    first, second = add_version(), add_version()
    MlflowClient().set_registered_model_alias(name, "my-own_1", "1")
    assert find_version(f"models:/{name}/1").id == first.id
    assert find_version(f"models:/{name}@my-own_1").id == first.id
    assert find_version(f"models:/{name}@latest-generation") == find_version(second.uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "digits",
        "digits/1",
        "models:/digits",
        "models:/digits/best",
        "models:/m-1@",
        "models:/a/b/1",
        "models:/a:b/1",
    ],
)
def test_uri_of_another_form_is_refused(home: Path, uri: str) -> None:
    with pytest.raises(
        UsageError, match=f"must read models:/NAME/VERSION or models:/NAME@ALIAS, but got '{uri}'"
    ):
        find_version(uri)


@pytest.mark.parametrize(
    ("what", "hint"), [("/7", ""), ("@latest-generatoin", " Did you mean 'latest-generation'?"), ("@x", "")]
)
def test_version_that_is_not_there_is_not_found(
    registry: Any, name: str, add_version: AddVersion, what: str, hint: str
) -> None:
    for _ in range(3):
        add_version()
    MlflowClient().delete_model_version(name, "2")
    with pytest.raises(NotFoundError) as caught:
        find_version(f"models:/{name}{what}")
    assert str(caught.value) == (
        f"The store {registry.uri} holds no models:/{name}{what}; the versions of '{name}' are 1, 3,"
        f" its aliases latest-generation.{hint}"
    )


def test_version_of_a_family_that_is_not_there_is_not_found(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    add_version()
    with pytest.raises(NotFoundError, match=f"holds no registered model '{name}x'. Did you mean '{name}'"):
        find_version(f"models:/{name}x/1")


def test_ancestors_are_those_that_taught(registry: Any, name: str, add_version: AddVersion) -> None:
    patriarch = add_version(family=f"{name}-elders")
    student = add_version(patriarch)
    grandchild = add_version(student)
    assert [version.id for version in read_ancestors(grandchild)] == [student.id, patriarch.id]
    assert (student.teacher_model_id, student.teacher_sha256) == (
        patriarch.model_id,
        patriarch.weights_sha256,
    )


def test_ancestor_under_a_name_that_was_given_again_is_refused(
    registry: Any, name: str, add_version: AddVersion, log_one: Callable[..., Any]
) -> None:
    other = f"{name}-other"
    student = add_version(add_version(family=other))
    MlflowClient().delete_registered_model(other)
    again = add_version(logged=log_one(), family=other)
    sentence = (
        f"{student.uri} names teacher {other}/1 as {student.teacher_model_id}, but the store's {other}/1 is"
        f" {again.model_id}; run 'lineage doctor {name}'."
    )
    with pytest.raises(IntegrityError, match=re.escape(sentence)):
        read_ancestors(add_version(student))


def test_ancestor_of_other_weights_is_refused(registry: Any, name: str, add_version: AddVersion) -> None:
    student = add_version(add_version())
    MlflowClient().set_model_version_tag(name, "2", "lineage.teacher_sha256", "f" * 64)
    with pytest.raises(IntegrityError, match=f"names teacher {name}/1 as {'f' * 64}, but the store's"):
        read_ancestors(find_version(student.uri))


def test_version_of_a_later_schema_is_refused(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    MlflowClient().set_model_version_tag(name, "1", "lineage.schema", "2")
    with pytest.raises(
        IntegrityError, match=f"schema of models:/{name}/1 must be at most 1, but is 2; update"
    ):
        read_family(name)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("kind", None),
        ("generation", "first"),
        ("schema", "one"),
        ("schema", "9" * 5000),
        ("metrics", "{"),
        ("metrics", "null"),
        ("metrics", "[0.5]"),
        ("metrics", "[" * 5000),
        ("metrics", '{"test_accuracy": "high"}'),
        ("teacher", "nobody"),
        ("teacher", " /1"),
        ("teacher", "a:b/1"),
        ("member.first", "{}"),
        ("member.0", "[]"),
        ("member.0", '{"id": "digits/1"}'),
        ("member.0", '{"id": "digits", "model_id": "m-1", "weights_sha256": "", "weight": 1}'),
        ("member.0", '{"id": "digits/1", "model_id": "m-1", "weights_sha256": "", "weight": "half"}'),
    ],
)
def test_altered_tags_are_refused(
    registry: Any, name: str, add_version: AddVersion, tag: str, value: str | None
) -> None:
    add_version()
    if value is None:
        MlflowClient().delete_model_version_tag(name, "1", f"lineage.{tag}")
    else:
        MlflowClient().set_model_version_tag(name, "1", f"lineage.{tag}", value)
    for read in (read_family, lambda _: find_version(f"models:/{name}/1")):
        with pytest.raises(IntegrityError, match=f"tags of models:/{name}/1 must be those that lineage gave"):
            read(name)


# Loading


def test_version_loads_back_bit_by_bit(
    registry: Any, add_version: AddVersion, model: LoadedModel, pixels: Tensor
) -> None:
    found = load_version(add_version())
    ours, theirs = found.network.state_dict(), model.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(found.logits(pixels), model.logits(pixels))
    assert (found.spec, found.recipe) == (model.spec, model.recipe)


def test_version_answers_through_pyfunc(
    registry: Any, add_version: AddVersion, model: LoadedModel, pixels: Tensor
) -> None:
    found = mlflow.pyfunc.load_model(add_version().uri).predict(pixels.numpy())
    assert found.dtype == np.float32
    assert np.array_equal(found, model.logits(pixels).numpy())


def test_altered_weights_are_refused(
    registry: Any, add_version: AddVersion, log_one: Callable[..., Any]
) -> None:
    version = add_version(logged=log_one())
    file = registry.weights_file(version)
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    with pytest.raises(IntegrityError) as caught:
        load_version(version)
    message = str(caught.value)
    assert message.startswith(f"The weights of {version.uri} must have the SHA-256")
    assert f"{version.weights_sha256[:12]}… they were registered with, but have" in message
    assert message.count("…") == 2


def test_weights_of_another_version_are_refused(registry: Any, add_version: AddVersion) -> None:
    version = add_version(weights_sha256="f" * 64)
    with pytest.raises(IntegrityError, match="must have the SHA-256 ffffffffffff…"):
        load_version(version)


def test_missing_weights_are_not_found(
    registry: Any, add_version: AddVersion, log_one: Callable[..., Any]
) -> None:
    version = add_version(logged=log_one())
    registry.weights_file(version).unlink()
    with pytest.raises(NotFoundError) as caught:
        load_version(version)
    assert str(caught.value) == (
        f"The weights of {version.uri} must lie in {registry.uri}, but do not; restore the artifacts of"
        f" {version.model_id}; if the family was packed without weights, use the store that it was"
        " packed from."
    )


def test_missing_artifacts_are_not_found(
    registry: Any, add_version: AddVersion, log_one: Callable[..., Any]
) -> None:
    version = add_version(logged=log_one())
    shutil.rmtree(registry.weights_file(version).parent)
    with pytest.raises(NotFoundError, match=version.model_id):
        load_version(version)


def test_deleted_model_is_not_found(
    registry: Any, add_version: AddVersion, log_one: Callable[..., Any]
) -> None:
    version = add_version(logged=log_one())
    MlflowClient().delete_logged_model(version.model_id)
    with pytest.raises(NotFoundError, match=version.model_id):
        load_version(version)


def test_served_version_answers_with_the_same_logits(
    sqlite_registry: Any,
    home: Path,
    add_version: AddVersion,
    model: LoadedModel,
    pixels: Tensor,
    free_port: Callable[[], int],
    serving: Callable[..., Any],
) -> None:
    port = free_port()
    command = ["-m", "mlflow", "models", "serve", "--model-uri", add_version().uri]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, home, f"http://127.0.0.1:{port}/ping"):
        answer = requests.post(
            f"http://127.0.0.1:{port}/invocations", json={"inputs": pixels.tolist()}, timeout=60
        )
    assert answer.status_code == 200, answer.text
    found = np.array(json.loads(answer.text)["predictions"], np.float32)
    assert np.array_equal(found, model.logits(pixels).numpy())


def test_tags_of_a_patriarch_name_no_teacher() -> None:
    tags = NewVersion(0, None, "strict", 0, "", "", {}, "").tags()
    assert not any("teacher" in key or "root" in key for key in tags)
