from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.registry.family.family import Member, Version
from lineage.registry.family.lookup import (
    Relative,
    ancestors_of,
    descendants_of,
    find_version,
    read_family,
    students_elsewhere,
)

AddVersion = Callable[..., Version]


def pairs(relatives: Sequence[Relative]) -> list[tuple[int, str]]:
    return [(relative.distance, relative.version.id) for relative in relatives]


@pytest.fixture
def chain(registry: Any, add_version: AddVersion) -> list[Version]:
    """A patriarch, two students in a row, and a branch from the first student."""
    versions = [add_version()]
    versions.append(add_version(versions[0]))
    versions.append(add_version(versions[1]))
    versions.append(add_version(versions[1]))
    return versions


def test_ancestors_are_teachers_nearest_first(chain: list[Version], name: str) -> None:
    found = ancestors_of(chain[3])
    assert pairs(found) == [(1, f"{name}/2"), (2, f"{name}/1")]
    family = read_family(name)
    assert tuple(relative.version for relative in found) == family.ancestors(family.versions[3])


def test_descendants_are_students_nearest_first(chain: list[Version], name: str) -> None:
    assert pairs(descendants_of(chain[0])) == [(1, f"{name}/2"), (2, f"{name}/3"), (2, f"{name}/4")]


def test_depth_limits_both(chain: list[Version], name: str) -> None:
    assert pairs(ancestors_of(chain[3], depth=1)) == [(1, f"{name}/2")]
    assert pairs(descendants_of(chain[0], depth=1)) == [(1, f"{name}/2")]


def test_edges_lead_to_other_families_and_back(
    chain: list[Version], name: str, add_version: AddVersion
) -> None:
    other = add_version(chain[3], family=f"{name}-other")
    back = add_version(other)
    assert pairs(ancestors_of(back))[:2] == [(1, other.id), (2, chain[3].id)]
    assert pairs(descendants_of(chain[3])) == [(1, other.id), (2, back.id)]


def test_students_under_other_names_are_found_whatever_their_tags(
    chain: list[Version], name: str, add_version: AddVersion
) -> None:
    other = add_version(chain[3], family=f"{name}-other")
    add_version(other)
    altered = add_version(chain[0], family=f"{name}-other")
    MlflowClient().set_model_version_tag(altered.name, str(altered.version), "lineage.generation", "two")
    found = students_elsewhere(name)
    assert [(student.id, student.teacher) for student in found] == [
        (other.id, chain[3].id),
        (altered.id, chain[0].id),
    ]
    assert found[0] == replace(other, aliases=())


def test_ensembles_descend_from_their_members(
    chain: list[Version], name: str, add_version: AddVersion
) -> None:
    members = tuple(
        Member(version.id, version.model_id, version.weights_sha256, 0.5) for version in chain[2:]
    )
    ensemble = add_version(family=f"{name}-ensembles", kind="ensemble", members=members)
    student = add_version(ensemble)
    assert pairs(ancestors_of(ensemble)) == [
        (1, f"{name}/3"),
        (1, f"{name}/4"),
        (2, f"{name}/2"),
        (3, f"{name}/1"),
    ]
    assert pairs(descendants_of(chain[2])) == [(1, ensemble.id), (2, student.id)]


def test_circle_ends_where_it_closes(chain: list[Version], name: str) -> None:
    MlflowClient().set_model_version_tag(name, "1", "lineage.teacher", f"{name}/3")
    third = find_version(chain[2].uri)
    assert pairs(ancestors_of(third)) == [(1, f"{name}/2"), (2, f"{name}/1")]
    assert pairs(descendants_of(third)) == [(1, f"{name}/1"), (2, f"{name}/2"), (3, f"{name}/4")]


def test_names_that_look_alike_stay_apart(registry: Any, name: str, add_version: AddVersion) -> None:
    teacher = add_version(family=f"{name}'s_1")
    student = add_version(teacher, family=f"{name}'s_2")
    add_version(add_version(family=f"{name}xs_1"), family=f"{name}xs_2")
    assert pairs(descendants_of(teacher)) == [(1, student.id)]
