"""Databases of studies: an sqlite file, and PostgreSQL where it is installed."""

import uuid
from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of each of the two, in turn; others' studies may stand in the second."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    return str(request.getfixturevalue("study_database"))


@pytest.fixture
def name() -> str:
    """Of a study that no other test uses."""
    return f"study-{uuid.uuid4().hex[:8]}"
