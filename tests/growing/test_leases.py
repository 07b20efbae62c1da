"""Leases that a succession takes on keys, and handlers that abandon a generation."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ignite.engine import Engine, Events
from mlflow import MlflowClient

import lineage
from lineage.display.progress import SilentReporter
from lineage.errors import RegistryError, TrainingError
from lineage.growing.leases import Leases, Work, find_or_lease
from lineage.growing.plan import read_split_data
from lineage.growing.succession import GenerationEvents, Succession
from lineage.recipe import load_recipe
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.leases import Lease, write_lease
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.handlers import AbandonedError


class Ledger(Leases):
    """Leases that record their calls; a key in ``of_others`` is taken."""

    def __init__(self) -> None:
        super().__init__(heartbeat=60, grace=120)
        self.of_others: set[str] = set()
        self.lost: set[str] = set()
        self.entries: list[str] = []

    def claim(self, work: Work) -> str | None:
        holder = "another process has it" if work.key in self.of_others else super().claim(work)
        self.entries.append("awaited" if holder else "claimed")
        return holder

    def confirm(self, key: str) -> None:
        if key in self.lost:
            self.lost.remove(key)
            experiment = ensure_experiment("digits")
            write_lease(experiment, key, Lease("other", "process 1 on elsewhere", grace=0.1))
        super().confirm(key)

    def release(self, key: str) -> None:
        super().release(key)
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
    make(leases=ledger).run()  # what is registered needs none
    assert ledger.entries == ["claimed", "released"] * 2
    experiment = MlflowClient().get_experiment_by_name("digits")
    assert experiment is not None
    assert not [tag for tag in experiment.tags if tag.startswith("lineage.lease.")]


def test_failure_releases_the_key(make: Make) -> None:
    def strike(trainer: Engine, _generation: int) -> None:
        @trainer.on(Events.EPOCH_COMPLETED)
        def _fail(_: Engine) -> None:
            raise TrainingError("struck by lightning")

    ledger = Ledger()
    with pytest.raises(TrainingError, match="lightning"):
        make(leases=ledger, observe=strike).run()
    assert ledger.entries == ["claimed", "released"]


def test_key_of_another_is_awaited_and_then_pulled(make: Make) -> None:
    ledger = Ledger()
    first = make()
    waiting = make(leases=ledger)
    first.engine.add_event_handler(GenerationEvents.GENERATION_COMPLETED, lambda: first.engine.terminate())
    patriarch = first.run().versions[0]
    ledger.of_others = {patriarch.key}
    assert waiting.run().num_trained == 1
    assert ledger.entries == ["claimed", "released"]


def test_generation_whose_lease_was_taken_over_is_awaited_and_then_continued(make: Make) -> None:
    ledger = Ledger()
    succession = make(leases=ledger)

    @succession.engine.on(GenerationEvents.GENERATION_STARTED)
    def _lose() -> None:
        if not ledger.entries[1:]:
            ledger.lost.update(ledger._held)

    grown = succession.run()  # the other is silent, so it loses the key again
    assert grown.num_trained == 2
    assert ledger.entries[:3] == ["claimed", "released", "awaited"]
    assert len(lineage.tree("digits")) == 2


def test_waiting_ends_when_the_other_gives_the_key_back(home: Path) -> None:
    ledger = Ledger()
    ledger.of_others = {"key"}
    timer = threading.Timer(0.5, ledger.of_others.clear)
    timer.start()
    work = Work("digits", "key", Checkpoint(home / "key"))
    assert find_or_lease(ledger, work, lambda: None, lambda _line: None) is None
    timer.join()
    assert ledger.entries[0] == "awaited"
    assert ledger.entries[-1] == "claimed"
    ledger.release("key")


def test_search_that_fails_releases_the_key(home: Path) -> None:
    answers = iter([None])

    def fail() -> None:
        try:
            return next(answers)
        except StopIteration:
            raise RegistryError("gone") from None

    ledger = Ledger()
    work = Work("digits", "key", Checkpoint(home / "key"))
    with pytest.raises(RegistryError, match="gone"):
        find_or_lease(ledger, work, fail, lambda _line: None)
    assert ledger.entries == ["claimed", "released"]


def test_abandoned_generation_is_killed_and_leaves_nothing(make: Make) -> None:
    def give_up(trainer: Engine, generation: int) -> None:
        @trainer.on(Events.EPOCH_COMPLETED(once=2))
        def _abandon(_: Engine) -> None:
            if generation == 1:
                raise AbandonedError("not worth it")

    with pytest.raises(AbandonedError, match="not worth it"):
        make(observe=give_up).run()
    assert len(lineage.tree("digits")) == 1
    client = MlflowClient()
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "attributes.status = 'KILLED'")
    assert run.data.tags["lineage.abandoned"] == "not worth it"
    assert list(state_home().iterdir()) == []
    assert make().run().num_trained == 1  # it can be grown all the same
