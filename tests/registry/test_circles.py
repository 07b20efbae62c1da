from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.errors import IntegrityError
from lineage.registry.family.family import Member, Version
from lineage.registry.family.lookup import find_version, read_family, require_no_circle

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
