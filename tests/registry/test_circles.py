from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.errors import IntegrityError
from lineage.registry.care.checks import check_circles
from lineage.registry.family.family import Family, Member, Version
from lineage.registry.family.lookup import find_version, read_ancestors, read_family, require_no_circle

AddVersion = Callable[..., Version]


@pytest.fixture
def family(sqlite_registry: Any, add_version: AddVersion) -> list[Version]:
    """A patriarch, a student and a grandchild."""
    patriarch = add_version()
    student = add_version(patriarch)
    return [patriarch, student, add_version(student)]


def lead(version: Version, teacher: str) -> None:
    """Alter a tag, so that the edge of ``version`` leads to ``teacher``."""
    MlflowClient().set_model_version_tag(version.name, str(version.version), "lineage.teacher", teacher)


def test_line_without_a_circle_is_sound(family: list[Version], add_version: AddVersion) -> None:
    members = tuple(Member(v.id, v.model_id, v.weights_sha256, 0.5) for v in family[1:])
    student = add_version(add_version(kind="ensemble", members=members))
    require_no_circle(student)
    assert find_version(student.uri) == student


@pytest.mark.parametrize("end", [0, 2])
def test_version_below_a_circle_is_unsound(name: str, family: list[Version], end: int) -> None:
    lead(family[0], family[end].id)
    sentence = rf"models:/{name}/\d must not descend from itself, but does, through {name}/\d.*doctor {name}"
    with pytest.raises(IntegrityError, match=sentence):
        require_no_circle(find_version(family[2].uri))


def test_chain_of_teachers_ends_where_a_circle_closes(family: list[Version]) -> None:
    lead(family[0], family[2].id)
    pins = {"teacher_model_id": family[2].model_id, "teacher_sha256": family[2].weights_sha256}
    for tag, value in pins.items():
        MlflowClient().set_model_version_tag(family[0].name, "1", f"lineage.{tag}", value)
    chain = read_ancestors(find_version(family[2].uri))
    assert [version.version for version in chain] == [2, 1]


def test_circle_does_not_hold_versions_between_two_of_them() -> None:
    edges = {1: 1, 2: 1, 3: 2, 4: 5, 5: 4, 6: 7}
    versions = [Version("digits", number, teacher=f"digits/{teacher}") for number, teacher in edges.items()]
    member = Member("digits/3", "m-1", "w", 1.0)
    versions[3] = replace(versions[3], members=(member,))
    found = [
        (finding.subject, finding.problem) for finding in check_circles(Family("digits", tuple(versions)))
    ]
    assert [subject for subject, _ in sorted(found)] == [f"models:/digits/{number}" for number in (1, 4, 5)]
    assert sorted(found)[0][1] == "models:/digits/1 must not descend from itself, but does, through digits/1"


def test_chain_of_thousands_is_walked() -> None:
    chain = [Version("digits", 1)]
    chain += [Version("digits", number, teacher=f"digits/{number - 1}") for number in range(2, 5001)]
    family = Family("digits", tuple(chain))
    assert len(family.ancestors(chain[-1])) == len(family.descendants(chain[0])) == 4999
    assert list(check_circles(family)) == []


def test_student_below_a_circle_is_not_registered(
    family: list[Version], add_version: AddVersion, name: str
) -> None:
    lead(family[0], family[2].id)
    with pytest.raises(IntegrityError, match="must not descend from itself"):
        add_version(family[2], family=f"{name}-new")
    assert len(read_family(f"{name}-new", missing_ok=True)) == 0


def test_ensemble_of_members_in_a_circle_is_not_registered(
    family: list[Version], add_version: AddVersion
) -> None:
    lead(family[0], family[2].id)
    member = Member(family[1].id, family[1].model_id, family[1].weights_sha256, 1.0)
    with pytest.raises(IntegrityError, match="must not descend from itself"):
        add_version(kind="ensemble", members=(member,))


def test_version_that_would_close_a_circle_is_not_registered(
    family: list[Version], add_version: AddVersion, name: str
) -> None:
    lead(family[0], f"{name}/4")
    with pytest.raises(IntegrityError, match=f"models:/{name}/4 must not descend from itself"):
        add_version(family[2])
    assert len(read_family(name)) == 3


def test_students_of_one_whose_teacher_is_gone_are_registered(
    family: list[Version], add_version: AddVersion, name: str
) -> None:
    MlflowClient().delete_model_version(name, "3")
    orphan = add_version(family[2], family=f"{name}-other")
    assert add_version(orphan).teacher == orphan.id
