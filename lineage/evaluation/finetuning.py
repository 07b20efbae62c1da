"""Finetuning: a trained network goes on learning, as a whole, on another data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lineage.data.batches import Augmentation, training_batches
from lineage.data.datasets import DataSet
from lineage.evaluation.features import num_features
from lineage.models.exported import ExportedNetwork
from lineage.training.checkpoints import Checkpoint
from lineage.training.devices import derive_seed
from lineage.training.generation import GenerationTraining, Samples, TrainConfig
from lineage.training.handlers import build_optimizer
from lineage.training.losses import strict_loss
from lineage.training.measurement import Subset


class FreshlyHeaded(nn.Module):
    """A trained network under a fresh linear classifier, to be finetuned as a whole.

    What its features do not pass through, such as the former classifier, is left out of the training: on
    several processes, a parameter without a gradient would be an error.

    Args:
        network: Has ``features``.
        num_classes: C, of the new classifier.
        input_shape: Of one image.
        seed: Of the classifier's weights.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, input_shape: tuple[int, int, int], seed: int
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed("classifier", seed))
            self.classifier = nn.Linear(num_features(network, input_shape), num_classes)
        self.network = network
        parameters = [parameter.requires_grad_(True) for parameter in network.parameters()]
        device = parameters[0].device
        seen = network.eval().features(torch.zeros(1, *input_shape, device=device))  # type: ignore[operator]
        gradients = torch.autograd.grad(seen.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)

    def features(self, images: Tensor) -> Tensor:
        """What the classifier sees, shape (B, D)."""
        features: Tensor = self.network.features(images)  # type: ignore[operator]
        return features.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (B, C), of normalised images (B, channels, H, W)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


@dataclass(frozen=True)
class Finetuning:
    """How a network is finetuned.

    Attributes:
        course: Epochs, learning rate and the like; its seed also gives the classifier's first weights.
        optimizer: Name.
        optimizer_settings: As ``build_optimizer`` takes them.
        batch_size: Over all processes.
        augmentation: Of the training images.
        data_seed: Of the augmentation.
        workers: Loader processes.
    """

    course: TrainConfig
    optimizer: str
    optimizer_settings: Mapping[str, Any]
    batch_size: int
    augmentation: Augmentation
    data_seed: int
    workers: int = 0


def make_finetuning(
    accelerator: Accelerator,
    network: nn.Module,
    dataset: DataSet,
    split: tuple[Tensor, Tensor],
    how: Finetuning,
    checkpoint: Checkpoint,
) -> GenerationTraining:
    """A training of ``network`` on labels alone, under a fresh classifier: a generation without a teacher.

    Args:
        accelerator: Fresh.
        network: A trained network with ``features``. Its weights are moved; an exported program is copied.
        dataset: Fitted to the network.
        split: Rows of the training part that train, and rows that validate; the latter may be none.
        how: Its settings.
        checkpoint: Where the state after every epoch goes.

    Raises:
        UsageError: If batch size, accumulation or padding do not fit each other or the data, or an exported
            program has no features.
    """
    spec = dataset.spec
    train, validation = split
    seed = how.course.seed
    if isinstance(network, ExportedNetwork):
        network = network.learner()
    headed = FreshlyHeaded(network, spec.num_classes, spec.input_shape, seed)
    batches = training_batches(
        dataset.train,
        spec,
        train,
        how.batch_size,
        how.augmentation,
        data_seed=how.data_seed,
        order_seed=seed,
        workers=how.workers,
        accumulation=how.course.accumulation,
    )
    rows_of_test = torch.arange(len(dataset.test))
    return GenerationTraining(
        accelerator=accelerator,
        network=headed,
        optimizer=build_optimizer(how.optimizer, headed, **how.optimizer_settings),
        loss=lambda logits, labels, _teacher_logits: strict_loss(logits, labels),
        teacher=None,
        samples=Samples(
            batches=batches,
            validation=Subset(dataset.train, validation, spec, how.batch_size, how.workers),
            test=Subset(dataset.test, rows_of_test, spec, how.batch_size, how.workers),
        ),
        course=how.course,
        checkpoint=checkpoint,
    )
