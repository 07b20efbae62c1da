"""Devices, processes and precision of a training, through Accelerate alone.

Accelerate owns the process group, the device, sharding, precision and accumulation; Ignite's distributed
module only follows the group that Accelerate opened. All code that differs between devices is here.
"""

import atexit
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Literal, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, parse_flag_from_env
from torch import nn

from lineage.errors import LostProcessError, TrainingError, UsageError
from lineage.processes import was_launched

T = TypeVar("T")
Precision = Literal["fp32", "bf16", "fp16"]

_TIMEOUT = "LINEAGE_PROCESS_TIMEOUT"
_SLURM_JOB = "SLURM_JOB_ID"
_COMPILER = "ACCELERATE_DYNAMO_BACKEND"
_OTHER_MODES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
_ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(
    precision: Precision = "fp32", accumulation: int = 1, sync_batchnorm: bool = False
) -> Accelerator:
    """Return a fresh Accelerator for one generation, on the processes that the launcher started.

    Batches are split between processes, so the global batch is the same for any number of them; random states
    are ours (every epoch is seeded), so Accelerate synchronises none.

    Args:
        precision: Number format of the forward pass under autocast; weights stay in float32.
        accumulation: Batches per optimizer step.
        sync_batchnorm: Whether BatchNorm uses the statistics of all processes' batches.

    Raises:
        UsageError: If the hardware does not have ``precision``, or cannot synchronise BatchNorm, or if
            Accelerate is configured for more than data parallelism.
        TrainingError: If Ignite and Accelerate do not see the same processes.
    """
    _require_data_parallelism()
    AcceleratorState._reset_state()  # the precision may differ from the last one's; the process group stays
    try:
        accelerator = Accelerator(
            cpu=was_launched() and not torch.accelerator.is_available(),  # else Accelerate trains alone
            mixed_precision=_ACCELERATE_NAMES[precision],
            gradient_accumulation_steps=accumulation,
            dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
            rng_types=[],
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=process_timeout()),
                # Rank 0's buffers are those that are evaluated and registered: no step has to send them
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
    except ValueError as error:
        raise UsageError(_refused(precision, str(error))) from error
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError(_refused(precision, "it needs a GPU."))
    if sync_batchnorm and accelerator.device.type == "cpu":
        raise UsageError(
            "training.sync_batchnorm must be false on CPUs, where torch has no synchronised BatchNorm, but is"
            " true; set it to false, or use GPUs."
        )
    _sync_ignite()
    if idist.get_world_size() != accelerator.num_processes:
        raise TrainingError(
            f"Ignite and Accelerate must see the same processes, but see {idist.get_world_size()} and"
            f" {accelerator.num_processes}; start with 'accelerate launch' or torchrun."
        )
    if accelerator.device.type == "cpu" and accelerator.num_processes > 1:
        _leave_at_exit()
    return accelerator


def _require_data_parallelism() -> None:
    asked = next((name for flag, name in _OTHER_MODES.items() if parse_flag_from_env(flag)), None)
    compiler = os.environ.get(_COMPILER, "no")
    if asked is None and compiler.lower() != "no":
        asked = f"the compiler '{compiler}'"
    if asked is not None:
        raise UsageError(
            "Several processes must train by data parallelism alone, each with the whole network, but"
            f" Accelerate is configured for {asked}; set distributed_type to MULTI_GPU or MULTI_CPU in its"
            " configuration, and leave out the rest."
        )


def _sync_ignite() -> None:
    """Let Ignite follow the process group.

    In a job of SLURM it would take its local rank from the variables of the task that SLURM started, in which
    a launcher has started processes of its own.
    """
    job = os.environ.pop(_SLURM_JOB, None) if "LOCAL_RANK" in os.environ else None
    try:
        idist.sync()
    finally:
        if job is not None:
            os.environ[_SLURM_JOB] = job


def process_timeout() -> timedelta:
    """Return how long a process waits for a sign of the others: ``$LINEAGE_PROCESS_TIMEOUT``, in seconds.

    Half an hour by default. One that reads data or speaks to the registry for longer gives signs of life.

    Raises:
        UsageError: If the variable is not a positive number.
    """
    text = os.environ.get(_TIMEOUT, "1800")
    try:
        timeout = timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        timeout = timedelta(0)
    if timeout <= timedelta(0):
        raise UsageError(f"{_TIMEOUT} must be a positive number of seconds, but is '{text}'; correct it.")
    return timeout


def init_processes() -> None:
    """Open the process group, so that ranks can talk to each other before anything is trained.

    Raises:
        TrainingError: If Ignite and Accelerate do not see the same processes.
    """
    make_accelerator()


@cache
def _leave_at_exit() -> None:
    """Close Gloo's group before Python ends; else its threads abort a finished process now and then."""
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _refused(precision: Precision, reason: str) -> str:
    return (
        f"training.precision must be one that the hardware has, but '{precision}' was refused: {reason}"
        " Use 'fp32'."
    )


def synchronise_batchnorm(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Return the network with BatchNorm synchronised over processes; it shares the parameters."""
    if accelerator.num_processes == 1:
        return network
    synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return synchronised


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the widest type for sums on ``device``: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2⁶³) hashed from ``parts``, so that neighbouring seeds give unrelated streams."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def environment_of_processes(processes: int) -> dict[str, str]:
    """Return environment variables for several processes that train together on this machine.

    Raises:
        UsageError: If the machine has GPUs, but fewer than processes.
    """
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < processes:
        raise UsageError(
            f"--processes must be at most the number of GPUs, {num_gpus}, but got {processes}; lower it."
        )
    return _threads(processes) | ({} if num_gpus else {"ACCELERATE_USE_CPU": "true"})


def share_of_machine(index: int, processes: int) -> dict[str, str]:
    """Return environment variables that give one of several independent processes its share of the machine.

    Args:
        index: Index of the process, from 0.
        processes: Number of processes.
    """
    share = _threads(processes)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = [*map(str, range(torch.cuda.device_count()))] if devices is None else devices.split(",")
    if len(found) > 1:
        share["CUDA_VISIBLE_DEVICES"] = found[index % len(found)]
    return share


def _threads(processes: int) -> dict[str, str]:
    """Return the number of threads per process as a variable, unless the user has set it."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}


def describe_hardware() -> dict[str, str]:
    """Return the hardware and software that a run's weights and speed depend on, as tags of the run."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "processes": str(idist.get_world_size()),
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
    }


@contextmanager
def accelerate_session() -> Iterator[None]:
    """Give a public function Accelerate states of its own, and the caller's program its states back.

    Accelerate keeps precision, accumulation and device once a process. A program that made an ``Accelerator``
    before it calls ``lineage`` finds it as it was; a process group that was opened stays open.

    Raises:
        LostProcessError: If one of several processes died or does not answer.
    """
    saved = [(state, dict(state._shared_state)) for state in (PartialState, AcceleratorState, GradientState)]
    AcceleratorState._reset_state()
    GradientState._reset_state()
    try:
        with translated_process_errors():
            yield
    finally:
        for state, values in saved:
            if values or not (state is PartialState and dist.is_initialized()):
                state._shared_state.clear()  # in place: the caller's objects share this very dict
                state._shared_state.update(values)


@contextmanager
def translated_process_errors() -> Iterator[None]:
    """Raise an error of the process group as ``LostProcessError`` if it means that a process is gone.

    NCCL's errors have a class of their own; gloo's are known by the name of its source files.

    Raises:
        LostProcessError: If one of several processes died or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise LostProcessError(
            f"All {idist.get_world_size()} processes must answer each other, but one has died or does not"
            " answer; see what it said last, and run the same command again to continue."
        ) from error
