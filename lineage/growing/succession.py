"""The succession: a patriarch, then each student, as an Ignite engine whose epochs are generations."""

import contextlib
import statistics
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ignite.engine import Engine, Events
from ignite.engine.events import EventEnum
from torch import nn

from lineage.display.progress import Reporter
from lineage.errors import NotFoundError, RegistryError
from lineage.evaluation.data import SplitData
from lineage.evaluation.evaluate import pull_network
from lineage.evaluation.predictions import describe
from lineage.evaluation.running_ensemble import RunningEnsemble
from lineage.growing.epoch_log import EpochLog, begin_while_reachable, when_reachable
from lineage.growing.leases import LeaseLostError, Leases, Work, find_or_lease
from lineage.growing.plan import GenerationPlan
from lineage.growing.register import find_and_settle, open_run, register_network
from lineage.growing.soft_targets import SoftTargetCache
from lineage.growing.teacher import FirstTeacher, version_of
from lineage.processes import is_main_process, uninterrupted
from lineage.recipe import Recipe
from lineage.registry.family.family import Version
from lineage.registry.store.connection import short_patience
from lineage.registry.store.files import require_weights
from lineage.registry.store.runs import tagging_runs
from lineage.training.attaching import Attach
from lineage.training.devices import (
    describe_hardware,
    translated_process_errors,
)
from lineage.training.generation import TrainResult
from lineage.training.handlers import AbandonedError
from lineage.training.soft_targets import StoredSoftTargets
from lineage.training.turns import on_main_process


class GenerationEvents(EventEnum):
    """Events that a succession's engine fires once a generation, besides Ignite's own.

    A generation is either pulled, or started and then completed. At Ignite's ``ITERATION_COMPLETED`` the
    engine's output is the generation's version.
    """

    GENERATION_PULLED = "generation_pulled"
    GENERATION_STARTED = "generation_started"
    GENERATION_COMPLETED = "generation_completed"


@dataclass(frozen=True)
class Lineage:
    """The generations of one succession.

    Attributes:
        name: Name of the registered model.
        seed: Seed of the succession.
        versions: One version a generation, oldest first.
        num_trained: Number of versions that were trained now; the registry held the others.
        from_version: Registered version that taught the first of them; None if that is a patriarch.
    """

    name: str
    seed: int
    versions: tuple[Version, ...]
    num_trained: int
    from_version: Version | None = None

    def __repr__(self) -> str:
        uris = ", ".join(version.uri for version in self.versions)
        return f"<Lineage {self.name}, seed {self.seed}: {uris}; {self.num_trained} trained>"


class Succession:
    """Grows one lineage; run again it continues, and does nothing once all generations are registered.

    Each teacher is loaded from the registry, not kept in memory: a student learns from what was registered.
    Rank 0 alone calls the registry.

    Args:
        recipe: Resolved recipe.
        split_data: Data set and split that the recipe names.
        reporter: Progress callbacks, called on rank 0.
        fresh: Whether to drop unfinished local state.
        from_version: Registered version, with its network or without, that teaches the first student, in
            place of a patriarch grown here.
        leases: Leases of this process; by default they follow ``study.heartbeat`` and ``study.grace``.
        observe: Callback on every rank that adds handlers to a generation's trainer, given with its index.
            They must not change the training. An ``AbandonedError`` from one of them, or from a handler of
            ``engine``, ends the succession.
        attach: Callback that may change the training: what it does is not in the key, so its generations are
            new ones every time, and nobody finds them by key.
    """

    def __init__(
        self,
        recipe: Recipe,
        split_data: SplitData,
        reporter: Reporter,
        fresh: bool = False,
        from_version: FirstTeacher | Version | None = None,
        leases: Leases | None = None,
        observe: Callable[[Engine, int], None] = lambda _trainer, _generation: None,
        attach: Attach | None = None,
    ) -> None:
        self.recipe = recipe
        self.split_data = split_data
        self.reporter = reporter
        self.fresh = fresh
        self._pull = from_version.pull if isinstance(from_version, FirstTeacher) else pull_network
        self.from_version = version_of(from_version)
        self.leases = leases or Leases(recipe.study.heartbeat, recipe.study.grace)
        self.observe = observe
        self.attach = attach
        self._attached: str | None = None
        self.name = recipe.model.name
        self.versions: list[Version] = []
        self.num_trained = 0
        self.ensemble = RunningEnsemble(
            split_data.test_subset(recipe.training.batch_size, recipe.data.workers),
            recipe.patriarch.top_k,
            self.from_version,
            self._notify,
            self._pull,
        )
        self.engine = Engine(self._grow_one)
        self.engine.register_events(*GenerationEvents)
        if is_main_process():
            self.engine.add_event_handler(GenerationEvents.GENERATION_PULLED, self._report_pulled)
            self.engine.add_event_handler(GenerationEvents.GENERATION_COMPLETED, self._report_completed)

    @translated_process_errors()
    def run(self) -> Lineage:
        """Grow all generations of the recipe, or load those that are registered.

        Raises:
            TrainingError: If a loss is not finite, or a process is lost.
            RegistryError: If the store cannot be reached or written.
            IntegrityError: If weights were altered.
        """
        generations = self.recipe.succession.generations + (self.from_version is None)
        if self.attach is not None:
            self._attached = on_main_process(lambda: uuid.uuid4().hex)
        if generations:
            with tagging_runs({"recipe_digest": self.recipe.digest} | describe_hardware()):
                self.engine.run(max_epochs=generations, epoch_length=1)
        return Lineage(
            self.name, self.recipe.succession.seed, tuple(self.versions), self.num_trained, self.from_version
        )

    def _grow_one(self, engine: Engine, _batch: Any) -> Version:
        """Run one epoch of the engine: load the generation if its key is registered, else train it.

        What another process trains is waited for.
        """
        teacher = self.versions[-1] if self.versions else self.from_version
        generation = 0 if teacher is None else teacher.generation + 1
        plan = GenerationPlan(
            self.recipe, self.split_data, generation, teacher.key if teacher else None, self._attached
        )
        version, is_new = begin_while_reachable(
            lambda: self._find_or_train(engine, plan, teacher), partial(self._notify_of, plan)
        )
        self.num_trained += is_new
        self.versions.append(version)
        engine.fire_event(
            GenerationEvents.GENERATION_COMPLETED if is_new else GenerationEvents.GENERATION_PULLED
        )
        return version

    def _find_or_train(
        self, engine: Engine, plan: GenerationPlan, teacher: Version | None
    ) -> tuple[Version, bool]:
        """Return the generation's version, and whether it was trained and registered from here."""
        work = Work(self.name, plan.key, plan.checkpoint)
        while True:
            found = find_or_lease(self.leases, work, lambda: find_and_settle(plan), self._notify)
            if found is not None:
                return found, False
            trained, is_new = self._train_leased(engine, plan, teacher)
            if trained is not None:
                return trained, is_new

    def _train_leased(
        self, engine: Engine, plan: GenerationPlan, teacher: Version | None
    ) -> tuple[Version | None, bool]:
        """Train a generation whose lease is ours, and release the lease even if training fails.

        Returns:
            The version, and whether it was registered from here; None if another process took the lease over.
        """
        try:
            engine.fire_event(GenerationEvents.GENERATION_STARTED)
            return self._train(plan, teacher)
        except LeaseLostError as error:
            self._notify(str(error))
            return None, False
        finally:
            if is_main_process():
                with short_patience():
                    self.leases.release(plan.key)

    def _train(self, plan: GenerationPlan, teacher: Version | None) -> tuple[Version, bool]:
        """Train and register a generation.

        Returns:
            The version, and whether it was registered from here and not meanwhile by another machine.
        """
        source = None if teacher is None else self._read_teacher(plan, teacher)
        self.ensemble.gather(self.versions)
        run = None
        try:
            with uninterrupted():
                run = on_main_process(lambda: open_run(plan, teacher, self.fresh))
            if note := plan.starting_note():
                self._notify_of(plan, note)
            training = plan.make_training(source, () if self.attach is None else (self.attach,))
            log = EpochLog(run, training.history, partial(self._notify_of, plan))
            trained = training.run(partial(self._attach, plan, log), partial(self._notify_of, plan))
            metrics = self._final_metrics(trained)

            def finish() -> Version:
                log.log_all()
                predictions = describe(trained.test.top_classes)
                return register_network(plan, teacher, trained.network, metrics, predictions, run)

            version = when_reachable(finish, partial(self._notify_of, plan))
            return version, version.run_id == run.run_id
        except AbandonedError as error:
            if is_main_process() and run is not None:
                run.abandon(str(error))
                plan.checkpoint.discard()
            raise
        except BaseException as error:
            if is_main_process() and run is not None:
                stopped = isinstance(error, (KeyboardInterrupt, LeaseLostError))
                # The first error is the one to report
                with contextlib.suppress(RegistryError), uninterrupted(), short_patience():
                    run.stop("KILLED" if stopped else "FAILED")
            raise

    def _read_teacher(self, plan: GenerationPlan, teacher: Version) -> nn.Module | StoredSoftTargets:
        """Return the teacher's network, or its stored soft targets if the recipe asks for them."""
        if plan.soft_target_format is None:
            return self._pull(teacher, self.split_data.dataset.spec)
        return SoftTargetCache(
            plan, teacher, plan.soft_target_format, self.leases, self._notify, self._watch_views
        ).get_or_compute()

    def _watch_views(self, engine: Engine, num_views: int) -> None:
        if is_main_process():
            self.reporter.watch_views(engine, num_views)

    def _attach(self, plan: GenerationPlan, log: EpochLog, trainer: Engine) -> None:
        """Attach handlers that log every epoch to the registry, report it, and end if the lease is lost."""

        def log_epoch() -> None:
            log.log_new()
            self.leases.require(plan.key)

        trainer.add_event_handler(
            Events.STARTED, lambda: on_main_process(lambda: self.leases.confirm(plan.key))
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: on_main_process(log_epoch))
        self.observe(trainer, plan.generation)
        if is_main_process():
            self.reporter.watch(trainer, plan.generation, plan.recipe.training.epochs)

    def _final_metrics(self, trained: TrainResult) -> dict[str, float]:
        """Return the metrics to register, with the accuracy of the ensemble of all generations so far."""
        speeds = [record["images_per_second"] for record in trained.history if "images_per_second" in record]
        return (
            {f"test_{name}": value for name, value in trained.test.metrics.items()}
            | {name: value for name, value in trained.history[-1].items() if name.startswith("validation_")}
            | self.ensemble.add(trained.test.logits)
            | {"seconds": trained.seconds}
            | ({} if self.recipe.training.patience is None else {"epochs": len(trained.history)})
            | ({"images_per_second": statistics.mean(speeds)} if speeds else {})
        )

    def _notify(self, line: str) -> None:
        if is_main_process():
            self.reporter.notice(line)

    def _notify_of(self, plan: GenerationPlan, line: str) -> None:
        self._notify(f"generation {plan.generation}: {line}")

    def _report_pulled(self) -> None:
        """Report a generation that is registered already; if its weights are gone, report that instead."""
        version = self.versions[-1]
        try:
            require_weights(version.id, version.model_id)
        except NotFoundError as error:
            self.reporter.notice(str(error))
        else:
            self.reporter.pulled(version)

    def _report_completed(self) -> None:
        self.reporter.completed(self.versions[-1])
