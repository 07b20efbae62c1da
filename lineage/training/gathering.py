"""Gathering of a batch that processes share, for losses that compare its samples with each other."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of a batch on one process; gradients flow back.

    Every process must call it with as many rows. A loss of gathered rows, averaged over processes as
    DistributedDataParallel averages gradients, has the gradient of the same loss on one process.

    Args:
        rows: Values of this process's samples, shape (B, …).

    Returns:
        Values of the whole batch, shape (B · processes, …).
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather; torch's own differentiable one is private, and its public name deprecated."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # every process's loss depends on our rows
        return total.chunk(dist.get_world_size())[dist.get_rank()]
