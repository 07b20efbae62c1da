"""Training of one generation: joins engines, handlers and checkpoint, and measures the result."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from accelerate import Accelerator
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import Optimizer

from lineage.data.batches import TrainingBatches
from lineage.data.workers import stop_workers
from lineage.training.attaching import attach_to_training, attach_to_validation
from lineage.training.checkpoints import Checkpoint, History
from lineage.training.config import TrainConfig
from lineage.training.devices import synchronise_batchnorm
from lineage.training.engines import Loss, make_trainer, release
from lineage.training.handlers import (
    LossGuard,
    attach_epoch_order,
    attach_learning_rate,
    attach_weight_average,
)
from lineage.training.measurement import Measurement, Subset, measure
from lineage.training.soft_targets import SubsetName
from lineage.training.stopping import EarlyStop, is_validated
from lineage.training.taught import TaughtNetwork
from lineage.training.teachers import Teacher
from lineage.training.turns import on_main_process, share_state, share_weights


@dataclass(frozen=True)
class TrainResult:
    """Result of training one generation.

    Attributes:
        network: Network with the weights to register (their moving average if one is kept), on the CPU.
        history: One record per epoch: ``train_loss``, ``lr``, ``images_per_second`` and, where it was
            validated, ``validation_…``. Without epochs, one record of the initial weights.
        test: Measurement of the last epoch on the test set, with the logits and the most probable classes of
            every sample, and with how alike a student is to a teacher whose network is at hand.
        seconds: Time spent on training and evaluation.
    """

    network: nn.Module
    history: list[dict[str, float]]
    test: Measurement
    seconds: float


@dataclass(frozen=True)
class GenerationData:
    """Data of one generation.

    Attributes:
        batches: Batches to train on.
        validation: Samples measured after every epoch; may be empty.
        test: Samples measured once, after the last epoch.
    """

    batches: TrainingBatches
    validation: Subset
    test: Subset


class GenerationTraining:
    """One generation's training: an Ignite trainer with its handlers, prepared for the device.

    Args:
        accelerator: Fresh Accelerator; a checkpoint holds whatever it has prepared.
        network: Network with initial weights; a ``TaughtNetwork`` where the loss has terms.
        optimizer: Optimizer of the network's parameters.
        loss: Loss to minimise.
        teacher: Source of soft targets; None for a patriarch.
        data: Batches to train on and subsets to measure on.
        config: All other settings.
        checkpoint: Checkpoint that keeps the state after every epoch.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        network: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        teacher: Teacher | None,
        data: GenerationData,
        config: TrainConfig,
        checkpoint: Checkpoint,
    ) -> None:
        self.accelerator = accelerator
        self.teacher = teacher
        self.data = data
        self.config = config
        self.checkpoint = checkpoint
        self.history = History()
        network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._has_terms = isinstance(network, TaughtNetwork)
        student = network.student if isinstance(network, TaughtNetwork) else network
        self.evaluated = copy.deepcopy(student)  # before `prepare` wraps the forward pass in autocast
        if config.sync_batchnorm:
            network = synchronise_batchnorm(network, accelerator)
        learner = network.student if isinstance(network, TaughtNetwork) else network
        frozen = [learner.get_submodule(name) for name in config.frozen]
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.guard = LossGuard(accelerator)
        teach = teacher.teach if teacher is not None and config.needs_teacher else None
        self.trainer = make_trainer(
            accelerator,
            self.network,
            self.optimizer,
            loss,
            teach,
            config.clip_norm,
            config.teacher_warmup,
            frozen,
        )
        self.loader = accelerator.prepare_data_loader(data.batches.loader)
        self.average = self._attach_training()
        accelerator.register_for_checkpointing(self.history)

    def run(
        self,
        attach: Callable[[Engine], None] = lambda _: None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> TrainResult:
        """Train from the last checkpoint that is not damaged, or from the start, and measure.

        Args:
            attach: Adds handlers to the trainer; at ``Events.EPOCH_COMPLETED`` they find the epoch's record
                in ``engine.state.metrics``, before the checkpoint is written.
            notify: Callback for a line about each damaged checkpoint.

        Raises:
            TrainingError: If the loss is not finite, or a handler's metric is not a number.
        """
        try:
            return self._run(attach, notify)
        finally:
            self._close()

    def _run(self, attach: Callable[[Engine], None], notify: Callable[[str], None]) -> TrainResult:
        self._attach_evaluation(self._predictions_of_teacher("validation", self.data.validation))
        attach_to_training(self.trainer, self.config.handlers, self.config.generation)
        attach(self.trainer)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        stop = EarlyStop(self.history, self.config.patience)
        stop.attach(self.trainer, notify)
        done = self._resume(notify)
        if done < self.config.epochs and not stop.is_due():  # Ignite starts a finished engine from zero
            self.trainer.run(max_epochs=self.config.epochs, epoch_length=len(self.data.batches.loader))
        return self._finish()

    def _close(self) -> None:
        """End the workers of its loaders, and take the engine apart, which refers to itself in circles."""
        stop_workers(self.loader)
        self.data.validation.close()
        self.data.test.close()
        release(self.trainer)

    def _attach_training(self) -> nn.Module | None:
        """Attach all that moves weights; the network that holds their average, if one is kept."""
        config = self.config
        attach_epoch_order(
            self.trainer, self.data.batches, self.loader, config.seed, self.accelerator.process_index
        )
        attach_learning_rate(self.trainer, self.optimizer, config.lr, config.schedule, config.accumulation)
        self.guard.attach(self.trainer)
        if config.average_decay is None:
            return None
        average = attach_weight_average(self.trainer, self.network, config.average_decay, config.accumulation)
        self.accelerator.register_for_checkpointing(average)
        return average

    def _attach_evaluation(self, teacher_predictions: Tensor | None) -> None:
        started = 0.0

        @self.trainer.on(Events.EPOCH_STARTED)
        def _start(_: Engine) -> None:
            nonlocal started
            started = time.perf_counter()

        @self.trainer.on(Events.EPOCH_COMPLETED)
        def _evaluate(engine: Engine) -> None:
            record = {"train_loss": self.guard.mean(), "lr": self._highest_rate()}
            passed = time.perf_counter() - started  # the mean waited for the device
            record["images_per_second"] = len(self.data.batches.order) / passed
            if is_validated(engine.state.epoch, self.config.validate_every, self.config.epochs):
                record |= self._measure_validation(teacher_predictions)
            self.history.epochs.append(record)
            self.history.seconds += time.perf_counter() - started
            engine.state.metrics = record

    def _highest_rate(self) -> float:
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def _measure_validation(self, teacher_predictions: Tensor | None) -> dict[str, float]:
        if len(self.data.validation) == 0:
            return {}
        self._take_weights()
        part, top_k = self.data.validation, self.config.top_k
        measured = measure(
            self.accelerator,
            self.evaluated,
            part,
            top_k,
            teacher_predictions,
            attach=partial(attach_to_validation, self.config.handlers, self.config.generation),
        )
        return {f"validation_{name}": value for name, value in measured.metrics.items()}

    def _take_weights(self) -> None:
        """Bring the weights, or their average, into the network that is evaluated and registered."""
        if self.average is not None:
            weights = self.average.state_dict()
        else:
            weights = self.accelerator.get_state_dict(self.network)
        if self._has_terms:
            weights = TaughtNetwork.weights_of_student(weights)
        if self.accelerator.is_main_process:
            self.evaluated.load_state_dict(weights)
        share_weights(self.evaluated)

    def _predictions_of_teacher(self, name: SubsetName, part: Subset) -> Tensor | None:
        """The teacher's classes by row: it sees evaluation images once a generation, not once an epoch."""
        if self.teacher is None or len(part) == 0:
            return None
        return self.teacher.predictions(name, part).to(self.accelerator.device)

    def _save(self, engine: Engine) -> None:
        on_main_process(lambda: self.checkpoint.save(self.accelerator, engine.state.epoch))

    def _resume(self, notify: Callable[[str], None]) -> int:
        """Take over the last checkpoint that is not damaged; the epochs that are done."""
        for line in on_main_process(self.checkpoint.drop_damaged):
            notify(line)
        done = on_main_process(lambda: self.checkpoint.epoch)
        if done:
            on_main_process(lambda: self.checkpoint.load(self.accelerator))
            share_weights(self.network)
            share_state(*filter(None, (self.optimizer, self.history, self.average, self.accelerator.scaler)))
            length = len(self.data.batches.loader)
            self.trainer.load_state_dict(
                {"epoch": done, "epoch_length": length, "max_epochs": self.config.epochs}
            )
        return done

    def _finish(self) -> TrainResult:
        started = time.perf_counter()
        if not self.history.epochs:
            predictions = self._predictions_of_teacher("validation", self.data.validation)
            self.history.epochs.append(self._measure_validation(predictions))
        self._take_weights()
        predictions = self._predictions_of_teacher("test", self.data.test)
        test = measure(
            self.accelerator,
            self.evaluated,
            self.data.test,
            self.config.top_k,
            predictions,
            keep_logits=True,
            keep_top_classes=True,
        )
        if self.teacher is not None:
            likeness = self.teacher.likeness(self.evaluated, self.data.test)
            test = replace(test, metrics=test.metrics | likeness)
        seconds = self.history.seconds + time.perf_counter() - started
        return TrainResult(self.evaluated.cpu(), self.history.epochs, test, seconds)
