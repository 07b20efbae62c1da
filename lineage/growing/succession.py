"""The succession: a patriarch, then each student, as an Ignite engine whose epochs are generations."""

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ignite.engine import Engine, Events
from ignite.engine.events import EventEnum
from torch import nn

from lineage.errors import RegistryError
from lineage.growing.cache_key import SplitData
from lineage.growing.leases import Leases, NoLeases, lease_or_find
from lineage.growing.plan import GenerationPlan
from lineage.growing.register import find_or_lock, find_registered, open_run, register_network
from lineage.growing.running_ensemble import RunningEnsemble, pull_network
from lineage.growing.soft_targets import SoftTargetProvider
from lineage.processes import is_main_process
from lineage.recipe import Recipe
from lineage.registry.family.family import Version
from lineage.registry.store.runs import GenerationRun, tagging_runs
from lineage.report.progress import Reporter
from lineage.training.devices import (
    describe_hardware,
    on_main_process,
    translated_process_errors,
)
from lineage.training.generation import TrainResult
from lineage.training.handlers import AbandonedError
from lineage.training.soft_targets import StoredSoftTargets


class GenerationEvents(EventEnum):
    """What a succession's engine fires beside Ignite's own events, once a generation.

    A generation is either pulled, or started and then completed. The engine's output, at Ignite's
    ``ITERATION_COMPLETED``, is the generation's model version.
    """

    GENERATION_PULLED = "generation_pulled"
    GENERATION_STARTED = "generation_started"
    GENERATION_COMPLETED = "generation_completed"


@dataclass(frozen=True)
class Lineage:
    """What one succession gives.

    Attributes:
        name: Of the registered model.
        seed: Of the succession.
        versions: One a generation, patriarch first.
        num_trained: How many of them were trained now; the others were in the registry.
        from_version: The registered version that taught the first of them, if it was not a patriarch.
    """

    name: str
    seed: int
    versions: tuple[Version, ...]
    num_trained: int
    from_version: Version | None = None


class Succession:
    """Grows one lineage; run again it continues, and does nothing when all is there.

    Each teacher is pulled from the registry, not kept in memory: what educates a student is what was
    registered. Rank 0 alone speaks to the registry.

    Args:
        recipe: Resolved.
        split_data: Its data.
        reporter: Is told what happens, on rank 0.
        fresh: Whether to drop unfinished local state.
        from_version: Registered version that teaches the first student, in place of a patriarch grown here.
        leases: Ask for a key before it is looked up and trained; what others are training is awaited.
        attach: Adds handlers to the trainer of each generation, given with its index, on every rank. An
            ``AbandonedError`` from one of them, or from a handler of ``engine``, ends the succession.
    """

    def __init__(
        self,
        recipe: Recipe,
        split_data: SplitData,
        reporter: Reporter,
        fresh: bool = False,
        from_version: Version | None = None,
        leases: Leases | None = None,
        attach: Callable[[Engine, int], None] = lambda _trainer, _generation: None,
    ) -> None:
        self.recipe = recipe
        self.split_data = split_data
        self.reporter = reporter
        self.fresh = fresh
        self.from_version = from_version
        self.leases = leases or NoLeases()
        self.attach = attach
        self.name = recipe.model.name
        self.versions: list[Version] = []
        self.num_trained = 0
        self.ensemble = RunningEnsemble(
            GenerationPlan(recipe, split_data, 0, None).test,
            recipe.patriarch.top_k,
            from_version,
            self._notice,
        )
        self.engine = Engine(self._grow_one)
        self.engine.register_events(*GenerationEvents)
        if is_main_process():
            self.engine.add_event_handler(GenerationEvents.GENERATION_PULLED, self._report_pulled)
            self.engine.add_event_handler(GenerationEvents.GENERATION_COMPLETED, self._report_completed)

    @translated_process_errors()
    def run(self) -> Lineage:
        """Grow all generations of the recipe.

        Raises:
            TrainingError: If a loss is not finite, or a process is lost.
            RegistryError: If the store cannot be reached or written.
            IntegrityError: If another process is growing one of them from the same folder, or weights were
                altered.
        """
        generations = self.recipe.succession.generations + (self.from_version is None)
        if generations:
            with tagging_runs({"recipe_digest": self.recipe.digest} | describe_hardware()):
                self.engine.run(max_epochs=generations, epoch_length=1)
        return Lineage(
            self.name, self.recipe.succession.seed, tuple(self.versions), self.num_trained, self.from_version
        )

    def _grow_one(self, engine: Engine, _batch: Any) -> Version:
        """One epoch of the engine: pull the generation if its key is registered, train it otherwise."""
        teacher = self.versions[-1] if self.versions else self.from_version
        generation = 0 if teacher is None else teacher.generation + 1
        plan = GenerationPlan(self.recipe, self.split_data, generation, teacher.key if teacher else None)
        event = GenerationEvents.GENERATION_PULLED
        try:
            version = lease_or_find(
                self.leases,
                plan.key,
                find=lambda: find_or_lock(plan),
                peek=lambda: find_registered(plan),
            )
            if version is None:
                version, is_new = self._train_claimed(engine, plan, teacher)
                if is_new:
                    self.num_trained += 1
                    event = GenerationEvents.GENERATION_COMPLETED
        finally:
            plan.checkpoint.release()
        self.versions.append(version)
        engine.fire_event(event)
        return version

    def _train_claimed(
        self, engine: Engine, plan: GenerationPlan, teacher: Version | None
    ) -> tuple[Version, bool]:
        """Train what nobody else trains now, and leave it to others whatever comes of it."""
        try:
            engine.fire_event(GenerationEvents.GENERATION_STARTED)
            return self._train(plan, teacher)
        finally:
            if is_main_process():
                self.leases.release(plan.key)

    def _train(self, plan: GenerationPlan, teacher: Version | None) -> tuple[Version, bool]:
        """Train and register; the version, and whether it is this one and not one of another machine."""
        taught_by = None if teacher is None else self._taught_by(plan, teacher)
        self.ensemble.gather(self.versions)
        run = on_main_process(lambda: open_run(plan, teacher, self.fresh))
        try:
            trained = plan.make_training(taught_by).run(partial(self._attach, plan, run))
            metrics = self._final_metrics(trained)
            version = on_main_process(lambda: register_network(plan, teacher, trained.network, metrics, run))
            return version, version.run_id == run.run_id
        except AbandonedError as error:
            if is_main_process():
                run.abandon(str(error))
                plan.checkpoint.discard()
            raise
        except BaseException as error:
            if is_main_process():
                with contextlib.suppress(RegistryError):  # the first error is the one to tell
                    run.stop("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise

    def _taught_by(self, plan: GenerationPlan, teacher: Version) -> nn.Module | StoredSoftTargets:
        """The teacher's network, or what is stored of it, where the recipe wants that."""
        if plan.soft_target_format is None:
            return pull_network(teacher, self.split_data.dataset.spec)
        return SoftTargetProvider(
            plan, teacher, plan.soft_target_format, self.leases, self._notice, self._watch_views
        ).soft_targets()

    def _watch_views(self, engine: Engine, num_views: int) -> None:
        if is_main_process():
            self.reporter.watch_views(engine, num_views)

    def _attach(self, plan: GenerationPlan, run: GenerationRun, trainer: Engine) -> None:
        """Write every epoch to the registry, and show it."""

        @trainer.on(Events.EPOCH_COMPLETED)
        def _log(engine: Engine) -> None:
            on_main_process(lambda: run.log_epoch(engine.state.metrics, engine.state.epoch))

        self.attach(trainer, plan.generation)
        if is_main_process():
            self.reporter.watch(trainer, plan.generation, self.recipe.training.epochs)

    def _final_metrics(self, trained: TrainResult) -> dict[str, float]:
        """The numbers that stay with the version, with the accuracy of the ensemble of all so far."""
        speeds = [record["images_per_second"] for record in trained.history if "images_per_second" in record]
        return (
            {f"test_{name}": value for name, value in trained.test.metrics.items()}
            | {name: value for name, value in trained.history[-1].items() if name.startswith("validation_")}
            | self.ensemble.add(trained.test.logits)
            | {"seconds": trained.seconds}
            | ({"images_per_second": statistics.mean(speeds)} if speeds else {})
        )

    def _notice(self, line: str) -> None:
        if is_main_process():
            self.reporter.notice(line)

    def _report_pulled(self) -> None:
        self.reporter.pulled(self.versions[-1])

    def _report_completed(self) -> None:
        self.reporter.completed(self.versions[-1])
