"""Leases that a succession takes on keys, and handlers that abandon a generation."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ignite.engine import Engine, Events
from mlflow import MlflowClient

import lineage
from lineage.errors import RegistryError, TrainingError
from lineage.growing.leases import find_or_lease
from lineage.growing.plan import read_split_data
from lineage.growing.succession import GenerationEvents, Succession
from lineage.recipe import load_recipe
from lineage.report.progress import SilentReporter
from lineage.training.checkpoints import state_home
from lineage.training.handlers import AbandonedError


class Ledger:
    """Leases that record their calls; keys in ``of_others`` are taken."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.of_others: set[str] = set()
        self.entries: list[str] = []

    def claim(self, key: str) -> bool:
        if key in self.of_others:
            self.entries.append("awaited")
            return False
        self.held.add(key)
        self.entries.append("claimed")
        return True

    def release(self, key: str) -> None:
        self.held.discard(key)
        self.entries.append("released")


Make = Callable[..., Succession]


@pytest.fixture
def make(home: Path, tiny_settings: tuple[str, ...]) -> Make:
    """Function that returns a succession of the tiny ``digits`` with one student."""

    def succession(**options: object) -> Succession:
        recipe = load_recipe("digits", [*tiny_settings, "succession.generations=1"])
        return Succession(recipe, read_split_data(recipe), SilentReporter(), **options)  # type: ignore[arg-type]

    return succession


def test_every_key_is_claimed_before_and_released_after(make: Make) -> None:
    ledger = Ledger()
    make(leases=ledger).run()
    make(leases=ledger).run()  # what is pulled as well
    assert ledger.entries == ["claimed", "released"] * 4
    assert not ledger.held


def test_failure_releases_the_key(make: Make) -> None:
    def strike(trainer: Engine, _generation: int) -> None:
        @trainer.on(Events.EPOCH_COMPLETED)
        def _fail(_: Engine) -> None:
            raise TrainingError("struck by lightning")

    ledger = Ledger()
    with pytest.raises(TrainingError, match="lightning"):
        make(leases=ledger, attach=strike).run()
    assert ledger.entries == ["claimed", "released"]


def test_key_of_another_is_awaited_and_then_pulled(make: Make) -> None:
    ledger = Ledger()
    first = make()
    waiting = make(leases=ledger)
    first.engine.add_event_handler(GenerationEvents.GENERATION_COMPLETED, lambda: first.engine.terminate())
    patriarch = first.run().versions[0]
    ledger.of_others = {patriarch.key}
    assert waiting.run().num_trained == 1
    assert ledger.entries == ["awaited", "claimed", "released"]


def test_waiting_ends_when_the_other_gives_the_key_back() -> None:
    ledger = Ledger()
    ledger.of_others = {"key"}
    timer = threading.Timer(0.5, ledger.of_others.clear)
    timer.start()
    assert find_or_lease(ledger, "key", find=lambda: None, peek=lambda: None) is None
    timer.join()
    assert ledger.entries[0] == "awaited"
    assert ledger.entries[-1] == "claimed"
    assert ledger.held == {"key"}


def test_search_that_fails_releases_the_key() -> None:
    def fail() -> None:
        raise RegistryError("gone")

    ledger = Ledger()
    with pytest.raises(RegistryError, match="gone"):
        find_or_lease(ledger, "key", find=fail, peek=fail)
    assert not ledger.held


def test_abandoned_generation_is_killed_and_leaves_nothing(make: Make) -> None:
    def give_up(trainer: Engine, generation: int) -> None:
        @trainer.on(Events.EPOCH_COMPLETED(once=2))
        def _abandon(_: Engine) -> None:
            if generation == 1:
                raise AbandonedError("not worth it")

    with pytest.raises(AbandonedError, match="not worth it"):
        make(attach=give_up).run()
    assert len(lineage.tree("digits")) == 1
    client = MlflowClient()
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "attributes.status = 'KILLED'")
    assert run.data.tags["lineage.abandoned"] == "not worth it"
    assert list(state_home().iterdir()) == []
    assert make().run().num_trained == 1  # it can be grown all the same
