import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import create_engine, text

from lineage.errors import RegistryError
from lineage.studies.database import open_storage
from lineage.studies.leases import Heartbeat, StudyLeases


def _leases(url: str, name: str, grace: int = 60) -> StudyLeases:
    """Return the leases of one process."""
    return StudyLeases(open_storage(url), name, grace)


def test_claim_is_ours_until_it_is_released(url: str, name: str) -> None:
    first, second = _leases(url, name), _leases(url, name)
    assert first.claim("a")
    assert first.claim("a")
    assert not second.claim("a")
    assert second.claim("b")
    first.release("a")
    assert second.claim("a")


def test_claims_of_two_studies_are_apart(url: str, name: str) -> None:
    assert _leases(url, name).claim("a")
    assert _leases(url, f"{name}-other").claim("a")


def test_nobody_releases_what_is_anothers(url: str, name: str) -> None:
    first, second = _leases(url, name), _leases(url, name)
    assert first.claim("a")
    second.release("a")
    second.release_all()
    assert not second.claim("a")
    first.release_all()
    assert second.claim("a")


def test_claim_of_a_silent_owner_is_taken_over_by_one(url: str, name: str) -> None:
    dead, second, third = (_leases(url, name, grace=1) for _ in range(3))
    assert dead.claim("a")
    assert not second.claim("a")
    time.sleep(2.1)  # times of sqlite are whole seconds
    assert [second.claim("a"), third.claim("a"), dead.claim("a")] == [True, False, False]


def test_sign_of_life_keeps_claims(url: str, name: str) -> None:
    living, other = _leases(url, name, grace=3), _leases(url, name, grace=3)
    assert living.claim("a")
    with Heartbeat(living, interval=0.2):
        time.sleep(4.1)
        assert not other.claim("a")


def test_leases_of_others_are_deleted(url: str, name: str) -> None:
    dead, living = _leases(url, name), _leases(url, name)
    assert dead.claim("a")
    assert living.claim("b")
    living.delete_others()
    assert living.claim("a")
    assert not dead.claim("b")


def test_heartbeat_outlives_a_database_that_does_not_answer(url: str, name: str) -> None:
    leases = _leases(url, name)
    attempts: list[int] = []

    def fail() -> None:
        attempts.append(1)
        raise RegistryError("gone")

    leases.refresh = fail  # type: ignore[method-assign]
    with Heartbeat(leases, interval=0.05):
        time.sleep(0.5)
    assert len(attempts) > 2


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)], ids=["spring", "autumn"])
def test_living_lease_outlasts_a_change_of_daylight_saving_time(
    before: int, after: int, url_in_zone: Callable[[int], str], name: str
) -> None:
    living, other = _leases(url_in_zone(before), name), _leases(url_in_zone(after), name)
    assert living.claim("a")
    assert not other.claim("a")
    living.refresh()
    assert not other.claim("a")


def test_silent_lease_ends_at_a_change_to_winter_time(url_in_zone: Callable[[int], str], name: str) -> None:
    silent, other = _leases(url_in_zone(2), name, grace=1), _leases(url_in_zone(1), name, grace=1)
    assert silent.claim("a")
    time.sleep(1.5)
    assert other.claim("a")


def test_times_are_stored_in_utc(url_in_zone: Callable[[int], str], name: str) -> None:
    url = url_in_zone(2)
    _leases(url, name).claim("a")
    engine = create_engine(url)
    with engine.connect() as connection:
        is_utc = connection.execute(
            text(
                "SELECT TIMEZONE('UTC', now()) - heard BETWEEN interval '0' AND interval '10 minutes'"
                " FROM lineage_claims WHERE study = :study"
            ),
            {"study": name},
        ).scalar_one()
    engine.dispose()
    assert is_utc


@pytest.mark.parametrize("hours", [-5, 2])
def test_lease_that_the_first_version_wrote_in_another_zone_is_taken_over(
    hours: int, url: str, name: str
) -> None:
    leases = _leases(url, name)
    heard = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=hours)
    with leases.storage.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO lineage_claims (study, key, owner, heard) VALUES (:study, 'a', 'dead', :heard)"
            ),
            {"study": name, "heard": heard.isoformat(" ")},
        )
    assert leases.claim("a")
