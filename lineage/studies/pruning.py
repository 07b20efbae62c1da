"""Gives a trial up that does worse than others did at the same generation and epoch."""

from ignite.engine import Engine, Events

from lineage.registry.family.family import Version
from lineage.registry.store.study_runs import TrialRun, epoch_values
from lineage.studies.objectives import Objective
from lineage.studies.running_trial import RunningTrial
from lineage.training.devices import on_main_process
from lineage.training.handlers import AbandonedError


class Pruning:
    """Tells Optuna of a trial's epochs, and ends it when Optuna's pruner says so.

    A patriarch is neither told of nor judged: a tolerant one is meant to score lower. A student's epochs are
    steps ``generation * epochs + epoch``, so pruners compare trials at the same generation and epoch; they
    see only the present generation of the trial that they judge, since what its teacher reached says nothing
    of an early epoch of the student. A generation that has its last epoch is registered before it is judged,
    and a trial that has its last generation is complete.

    Args:
        attempt: The trial, on rank 0; None on other ranks.
        run: Of the trial, on rank 0.
        objective: What pruning looks at; None for no pruning.
        epochs: Of a generation: the distance of steps between generations.
        last_generation: Index of the last student.
    """

    def __init__(
        self,
        attempt: RunningTrial | None,
        run: TrialRun | None,
        objective: Objective | None,
        epochs: int,
        last_generation: int,
    ) -> None:
        self.attempt = attempt
        self.run = run
        self.objective = objective
        self.epochs = epochs
        self.last_generation = last_generation

    def attach(self, trainer: Engine, generation: int) -> None:
        """Look at every epoch of a student's trainer; all ranks must call it."""
        objective = self.objective
        if objective is None or generation == 0:
            return

        @trainer.on(Events.EPOCH_COMPLETED)
        def _look(engine: Engine) -> None:
            epoch, value = engine.state.epoch, engine.state.metrics[objective.metric]
            if on_main_process(lambda: self._reported(generation, epoch, value)):
                raise AbandonedError(f"worse than other trials in epoch {epoch} of generation {generation}")

    def judge(self, version: Version, was_trained: bool) -> None:
        """Look at a registered generation; all ranks must call it.

        Raises:
            AbandonedError: If its trial is not worth another generation.
        """
        generation = version.generation
        if self.objective is None or generation == 0:
            return
        if on_main_process(lambda: self._judged(version, was_trained)):
            raise AbandonedError(f"worse than other trials after generation {generation}")

    def _reported(self, generation: int, epoch: int, value: float) -> bool:
        self._report(generation, epoch, value)
        return epoch < self.epochs and self._is_hopeless(generation)

    def _judged(self, version: Version, was_trained: bool) -> bool:
        assert self.objective is not None
        if not was_trained:  # others reported its epochs; this trial is compared by them as well
            for epoch, value in enumerate(epoch_values(version, self.objective.metric), start=1):
                self._report(version.generation, epoch, value)
        return version.generation < self.last_generation and self._is_hopeless(version.generation)

    def _report(self, generation: int, epoch: int, value: float) -> None:
        assert self.attempt is not None and self.run is not None and self.objective is not None
        step = self._step(generation, epoch)
        if self.attempt.report(value, step):
            self.run.log_step(self.objective.metric, value, step)

    def _is_hopeless(self, generation: int) -> bool:
        assert self.attempt is not None
        return self.attempt.is_hopeless(self._step(generation, 1))

    def _step(self, generation: int, epoch: int) -> int:
        return generation * self.epochs + epoch
