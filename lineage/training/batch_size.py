"""Checks of a batch size against processes, accumulation and network, before anything is created."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from lineage.errors import UsageError
from lineage.formats import first_line


def require_batch_size(
    accelerator: Accelerator,
    build_network: Callable[[], nn.Module],
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    accumulation: int,
    sync_batchnorm: bool,
) -> None:
    """Refuse a batch that cannot be split evenly, or leaves BatchNorm one value a channel to normalise.

    Args:
        accelerator: Accelerator of the processes to train on.
        build_network: Builder of the network on the CPU; called if a process trains on single images.
        input_shape: (channels, H, W) of an image.
        batch_size: Images per optimizer step, over all processes.
        accumulation: Batches per optimizer step.
        sync_batchnorm: Whether BatchNorm uses the statistics of all processes' batches.

    Raises:
        UsageError: If the batch does not fit.
    """
    processes = accelerator.num_processes
    if batch_size % (accumulation * processes):
        raise UsageError(
            "training.batch_size must be a multiple of the number of processes times training.accumulation,"
            f" {processes} x {accumulation}, but got {batch_size}; change one of them."
        )
    share = batch_size // (accumulation * processes)
    if share > 1 or (sync_batchnorm and processes > 1):  # with two images there are two values a channel
        return
    problem = _problem_with_one_image(build_network(), input_shape)
    if problem:
        raise UsageError(
            f"training.batch_size must give every process at least 2 images a batch for this network, but"
            f" {batch_size} gives 1 ({processes} x training.accumulation={accumulation}): {problem};"
            " raise it."
        )


def _problem_with_one_image(network: nn.Module, input_shape: tuple[int, int, int]) -> str | None:
    """Return why torch refuses to train ``network`` on one image; None if it does not."""
    try:
        with torch.no_grad(), torch.random.fork_rng():
            network.train()(torch.zeros(1, *input_shape))
    except ValueError as error:
        return first_line(error)
    return None
