import json
from dataclasses import replace

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from lineage.registry.family.family import Family, Member, Version, from_model_version

BASE = Version(
    name="digits",
    version=1,
    root="digits/1",
    objective="tolerant",
)


def member(number: int, teacher: str | None, key: str = "") -> Version:
    return replace(BASE, version=number, teacher=teacher, key=key)


PATRIARCH = member(1, None, "first")
FIRST = member(2, "digits/1", "second")
SECOND = member(3, "digits/2", "third")
SIBLING = member(4, "digits/1", "second")
GUEST = member(5, "other/3")
ORPHAN = member(6, "digits/99")
FAMILY = Family("digits", (PATRIARCH, FIRST, SECOND, SIBLING, GUEST, ORPHAN))


def entity(tags: dict[str, str], source: str = "models:/m-7") -> ModelVersion:
    return ModelVersion(
        "digits",
        "3",
        creation_timestamp=5,
        source=source,
        run_id="r-7",
        tags=[ModelVersionTag(f"lineage.{name}", value) for name, value in tags.items()],
    )


def test_version_is_named_as_edges_and_mlflow_name_it() -> None:
    assert (SECOND.id, SECOND.uri) == ("digits/3", "models:/digits/3")


def test_version_as_json_is_plain() -> None:
    version = replace(FIRST, aliases=("best",), metrics={"test_accuracy": 0.5})
    found = json.loads(json.dumps(version.to_json()))
    assert (found["uri"], found["teacher"]) == ("models:/digits/2", "digits/1")
    assert (found["aliases"], found["metrics"]) == (["best"], {"test_accuracy": 0.5})


def test_model_version_is_read_from_its_tags() -> None:
    tags = {
        "schema": "1",
        "kind": "generation",
        "generation": "2",
        "teacher": "digits/2",
        "root": "digits/1",
        "objective": "student",
        "seed": "4",
        "recipe_digest": "d",
        "key": "k",
        "metrics": '{"test_accuracy": 0.5}',
        "weights_sha256": "w",
    }
    assert from_model_version(entity(tags), ("best",)) == Version(
        name="digits",
        version=3,
        kind="generation",
        generation=2,
        teacher="digits/2",
        root="digits/1",
        objective="student",
        seed=4,
        recipe_digest="d",
        key="k",
        metrics={"test_accuracy": 0.5},
        weights_sha256="w",
        model_id="m-7",
        run_id="r-7",
        created=5,
        aliases=("best",),
    )


def test_model_version_without_a_teacher_is_its_own_root() -> None:
    found = from_model_version(entity({"schema": "1", "kind": "generation", "generation": "0"}))
    assert found is not None
    assert (found.teacher, found.root, found.metrics) == (None, "digits/3", {})


def test_model_version_of_others_is_no_version() -> None:
    assert from_model_version(entity({"kind": "generation"})) is None


def test_family_is_iterated_in_the_order_of_its_versions() -> None:
    assert [version.version for version in FAMILY] == [1, 2, 3, 4, 5, 6]
    assert len(FAMILY) == 6


def test_roots_have_no_teacher_in_the_family() -> None:
    assert FAMILY.roots == (PATRIARCH, GUEST, ORPHAN)


def test_students_are_listed_oldest_first() -> None:
    assert FAMILY.students(PATRIARCH) == (FIRST, SIBLING)
    assert FAMILY.students(SECOND) == ()


def test_teacher_is_found_in_the_family_alone() -> None:
    assert FAMILY.teacher(SECOND) == FIRST
    assert [FAMILY.teacher(version) for version in (PATRIARCH, GUEST, ORPHAN)] == [None, None, None]


def test_ancestors_are_nearest_first() -> None:
    assert FAMILY.ancestors(SECOND) == (FIRST, PATRIARCH)
    assert FAMILY.ancestors(PATRIARCH) == ()
    assert FAMILY.ancestors(ORPHAN) == ()


def test_ancestors_in_a_circle_are_each_named_once() -> None:
    first, second, third = member(1, "digits/3"), member(2, "digits/1"), member(3, "digits/2")
    circle = Family("digits", (first, second, third))
    assert circle.ancestors(first) == (third, second)
    assert circle.roots == ()


def test_ancestors_that_lead_into_a_circle_end_where_it_closes() -> None:
    first, second, third = member(1, "digits/2"), member(2, "digits/1"), member(3, "digits/2")
    assert Family("digits", (first, second, third)).ancestors(third) == (second, first)


def test_ancestors_of_a_version_that_teaches_itself_are_none() -> None:
    own = member(1, "digits/1")
    assert Family("digits", (own,)).ancestors(own) == ()


def test_ancestors_of_an_ensemble_are_its_members_and_theirs() -> None:
    members = tuple(Member(version.id, "m-1", "w", 0.5) for version in (SIBLING, SECOND))
    ensemble = replace(
        BASE, version=7, kind="ensemble", members=(*members, Member("other/1", "m-1", "w", 0.5))
    )
    student = member(8, "digits/7")
    family = Family("digits", (*FAMILY, ensemble, student))
    assert ensemble.parents == ("digits/4", "digits/3", "other/1")
    assert family.parents(ensemble) == (SIBLING, SECOND)
    assert family.ancestors(student) == (ensemble, SIBLING, SECOND, PATRIARCH, FIRST)
    assert family.descendants(PATRIARCH) == (FIRST, SIBLING, SECOND, ensemble, student)
    assert family.roots == FAMILY.roots


def test_parents_of_a_version_are_named_once() -> None:
    twice = (Member("digits/1", "m-1", "w", 0.5),) * 2
    assert replace(BASE, version=2, kind="ensemble", members=twice).parents == ("digits/1",)
    assert (PATRIARCH.parents, FIRST.parents) == ((), ("digits/1",))


def test_key_finds_the_oldest_version_that_has_it() -> None:
    assert FAMILY.with_key("second") == FIRST
    assert FAMILY.with_key("unknown") is None


def test_versions_without_a_key_are_found_by_none() -> None:
    assert FAMILY.with_key("") is None
