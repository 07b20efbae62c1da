"""Ends a trial that does worse than others did at the same generation and epoch."""

from ignite.engine import Engine, Events

from lineage.registry.family.family import Version
from lineage.registry.store.study_runs import epoch_values
from lineage.studies.objectives import Objective
from lineage.studies.trial_record import NoRecord
from lineage.training.handlers import AbandonedError
from lineage.training.turns import on_main_process


class Pruning:
    """Reports a trial's epochs to Optuna, and ends the trial when the study's pruner gives it up.

    A patriarch is neither reported nor judged, since a tolerant one is meant to score lower. An epoch of a
    student is step ``generation * epochs + epoch``, so that pruners compare trials at the same generation and
    epoch. Of the trial that they judge they see the present generation alone: what its teacher reached says
    nothing about an early epoch of the student. A generation that has its last epoch is registered before it
    is judged, and a trial that has its last generation is complete.

    Args:
        record: Record of the trial on rank 0; ``NoRecord`` on other ranks.
        objective: Objective that trials are compared by; None for no pruning.
        epochs: Distance of steps between generations: the most epochs that a generation of the study has.
        last_generation: Index of the last student.
    """

    def __init__(
        self, record: NoRecord, objective: Objective | None, epochs: int, last_generation: int
    ) -> None:
        self.record = record
        self.metric = "" if objective is None else objective.metric
        self.epochs = epochs
        self.last_generation = last_generation

    def attach(self, trainer: Engine, generation: int) -> None:
        """Judge the trial after every epoch of a student's trainer; all ranks must call it."""
        if not self._judges(generation):
            return

        @trainer.on(Events.EPOCH_COMPLETED)
        def _judge(engine: Engine) -> None:
            epoch, value = engine.state.epoch, engine.state.metrics.get(self.metric)
            if value is None:  # not validated
                return
            if on_main_process(lambda: self._is_hopeless_in(generation, epoch, value)):
                raise AbandonedError(f"worse than other trials in epoch {epoch} of generation {generation}")

    def judge(self, version: Version, was_trained: bool) -> None:
        """Judge the trial after a generation was registered; all ranks must call it.

        Args:
            version: Version of the generation.
            was_trained: Whether it was trained for this trial.

        Raises:
            AbandonedError: If the trial is not worth another generation.
        """
        generation = version.generation
        if not self._judges(generation):
            return
        if on_main_process(lambda: self._is_hopeless_after(version, was_trained)):
            raise AbandonedError(f"worse than other trials after generation {generation}")

    def _judges(self, generation: int) -> bool:
        return bool(self.metric) and generation > 0

    def _is_hopeless_in(self, generation: int, epoch: int, value: float) -> bool:
        self.record.report(self.metric, value, self._step(generation, epoch))
        return epoch < self.epochs and self.record.is_hopeless(self._step(generation, 1))

    def _is_hopeless_after(self, version: Version, was_trained: bool) -> bool:
        generation = version.generation
        if not was_trained:  # another trial reported its epochs; this one is compared by them as well
            for epoch, value in epoch_values(version, self.metric).items():
                self.record.report(self.metric, value, self._step(generation, epoch))
        return generation < self.last_generation and self.record.is_hopeless(self._step(generation, 1))

    def _step(self, generation: int, epoch: int) -> int:
        return generation * self.epochs + epoch
