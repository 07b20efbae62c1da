import time

from lineage.errors import RegistryError
from lineage.studies.database import open_storage
from lineage.studies.leases import Heartbeat, StudyLeases


def _leases(url: str, name: str, grace: int = 60) -> StudyLeases:
    """Those of one process."""
    return StudyLeases(open_storage(url, 60, 120), name, grace)


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
    living, other = _leases(url, name, grace=1), _leases(url, name, grace=1)
    assert living.claim("a")
    with Heartbeat(living, interval=0.2):
        time.sleep(2.1)
        assert not other.claim("a")


def test_claims_of_the_dead_are_buried(url: str, name: str) -> None:
    dead, living = _leases(url, name), _leases(url, name)
    assert dead.claim("a")
    assert living.claim("b")
    living.bury_others()
    assert living.claim("a")
    assert not dead.claim("b")


def test_pulse_outlives_a_database_that_does_not_answer(url: str, name: str) -> None:
    leases = _leases(url, name)
    beats: list[int] = []

    def stumble() -> None:
        beats.append(1)
        raise RegistryError("gone")

    leases.beat = stumble  # type: ignore[method-assign]
    with Heartbeat(leases, interval=0.05):
        time.sleep(0.5)
    assert len(beats) > 2
