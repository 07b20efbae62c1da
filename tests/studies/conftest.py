"""Databases of studies: an sqlite file, and PostgreSQL where it is installed."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of each of the two, in turn; studies of other tests may stand in the second."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    return str(request.getfixturevalue("study_database"))


@pytest.fixture
def name() -> str:
    """Name of a study that no other test uses."""
    return f"study-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def url_in_zone(study_database: str) -> Callable[[int], str]:
    """URL of the PostgreSQL database for sessions whose local time is some hours ahead of UTC.

    Sessions in Europe/Berlin are one hour ahead in winter and two in summer.
    """

    def url(hours: int) -> str:
        return f"{study_database}&options=-c%20TimeZone%3DEtc/GMT-{hours}"

    return url
