"""Finetuning: training a registered network, as a whole, on another data set."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lineage.data.augmentation import Augmentation
from lineage.data.batches import training_batches
from lineage.evaluation.data import SplitData
from lineage.evaluation.features import num_features
from lineage.models.exported import ExportedNetwork
from lineage.training.batch_size import require_batch_size
from lineage.training.checkpoints import Checkpoint
from lineage.training.config import TrainConfig
from lineage.training.devices import derive_seed
from lineage.training.generation import GenerationData, GenerationTraining
from lineage.training.losses import strict_loss
from lineage.training.optimizers import build_optimizer


class FreshlyHeaded(nn.Module):
    """A trained network under a fresh linear classifier, to be finetuned as a whole.

    Parameters that its features do not depend on, such as those of the former classifier, are frozen: on
    several processes, a trainable parameter without a gradient would be an error.

    Args:
        network: Trained network with a method ``features``.
        num_classes: Number C of classes of the new classifier.
        input_shape: Shape of one image, (channels, H, W).
        seed: Seed of the classifier's first weights.
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
        """Return the classifier's input, shape (B, D), for normalised images (B, channels, H, W)."""
        features: Tensor = self.network.features(images)  # type: ignore[operator]
        return features.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, C), of normalised images (B, channels, H, W)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


@dataclass(frozen=True)
class Finetuning:
    """Settings of a finetuning.

    Attributes:
        config: Epochs, learning rate and the like; its seed also gives the classifier's first weights.
        optimizer: Name of the optimizer.
        optimizer_settings: Arguments of ``build_optimizer``.
        batch_size: Images a step, over all processes.
        augmentation: Augmentation of the training images.
        data_seed: Seed of the augmentation.
        workers: Loader processes.
    """

    config: TrainConfig
    optimizer: str
    optimizer_settings: Mapping[str, Any]
    batch_size: int
    augmentation: Augmentation
    data_seed: int
    workers: int = 0


def make_finetuning(
    accelerator: Accelerator,
    network: nn.Module,
    split_data: SplitData,
    settings: Finetuning,
    checkpoint: Checkpoint,
) -> GenerationTraining:
    """Return a training of ``network`` on labels alone, under a fresh classifier.

    Args:
        accelerator: Fresh Accelerator.
        network: Trained network with ``features``. Its weights change; an exported program is copied first.
        split_data: Images fitted to the network, and their split; there may be none to validate on.
        settings: Settings of the finetuning.
        checkpoint: Local state, written after every epoch.

    Raises:
        UsageError: If batch size, accumulation or padding do not fit each other or the data, or an exported
            program has no features.
    """
    dataset = split_data.dataset
    spec, seed = dataset.spec, settings.config.seed
    if isinstance(network, ExportedNetwork):
        network = network.learner()
    headed = FreshlyHeaded(network, spec.num_classes, spec.input_shape, seed)
    batches = training_batches(
        dataset.train,
        spec,
        split_data.train,
        settings.batch_size,
        settings.augmentation,
        data_seed=settings.data_seed,
        order_seed=seed,
        workers=settings.workers,
        accumulation=settings.config.accumulation,
    )
    require_batch_size(
        accelerator,
        partial(copy.deepcopy, headed),
        spec.input_shape,
        batch_size=settings.batch_size,
        accumulation=settings.config.accumulation,
        sync_batchnorm=settings.config.sync_batchnorm,
    )
    return GenerationTraining(
        accelerator=accelerator,
        network=headed,
        optimizer=build_optimizer(settings.optimizer, headed, **settings.optimizer_settings),
        loss=lambda logits, labels, _teacher_logits, _share: strict_loss(logits, labels),
        teacher=None,
        data=GenerationData(
            batches=batches,
            validation=split_data.validation_subset(settings.batch_size, settings.workers),
            test=split_data.test_subset(settings.batch_size, settings.workers),
        ),
        config=settings.config,
        checkpoint=checkpoint,
    )
