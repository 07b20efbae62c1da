"""A teacher's soft targets are computed: an Ignite engine whose epochs are views of all training images."""

import shutil
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import cast

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import DataLoader

from lineage.data.batches import Augmentation, Batch
from lineage.errors import UsageError
from lineage.training.devices import on_main_process
from lineage.training.engines import collect_rows, make_evaluator
from lineage.training.measurement import Subset
from lineage.training.soft_targets import PartName, SoftTargetFolder, SoftTargetFormat
from lineage.training.teachers import LiveTeacher


def record_soft_targets(
    teacher: LiveTeacher,
    train: Subset,
    others: Mapping[PartName, Subset],
    augmentation: Augmentation,
    data_seed: int,
    folder: SoftTargetFolder,
    attach: Callable[[Engine], None] = lambda _: None,
) -> None:
    """Write what ``teacher`` says of every view of ``train``, from where a killed process left off.

    It looks as it would in training, under autocast. What it says of one view stays on the device until the
    view is complete; rank 0 alone writes. All ranks must call it.

    Args:
        teacher: Frozen.
        train: The images that train.
        others: Parts whose predicted classes are kept, too.
        augmentation: Of the views.
        data_seed: Fixes the views.
        folder: Where to; only rank 0's counts.
        attach: Adds handlers to the engine.

    Raises:
        UsageError: If the disk has no room for it.
    """
    if on_main_process(lambda: folder.is_complete):
        return
    accelerator = teacher.accelerator
    done = on_main_process(lambda: _prepare(folder))
    recorder = make_evaluator(accelerator, teacher.network, {}, len(train), autocast=True)
    buffers = _collected(recorder, folder.form, len(train.images), accelerator.device)

    def batches(view: int) -> DataLoader[Batch]:
        return train.batches(accelerator, augmentation, data_seed, view)

    @recorder.on(Events.EPOCH_STARTED)
    def _start(engine: Engine) -> None:
        engine.set_data(batches(engine.state.epoch))

    @recorder.on(Events.EPOCH_COMPLETED)
    def _write(engine: Engine) -> None:
        whole = {name: accelerator.reduce(buffer, reduction="sum") for name, buffer in buffers.items()}
        rows = train.indices.to(accelerator.device)
        on_main_process(
            lambda: folder.write_view(
                engine.state.epoch, {name: values[rows] for name, values in whole.items()}
            )
        )

    attach(recorder)
    if done < folder.num_views:  # Ignite starts a finished engine from zero
        length = len(batches(1))
        recorder.load_state_dict({"epoch": done, "epoch_length": length, "max_epochs": folder.num_views})
        recorder.run(batches(done + 1), max_epochs=folder.num_views)
    predictions = {name: teacher.predictions(name, part)[part.indices] for name, part in others.items()}
    on_main_process(lambda: folder.finish(predictions))


def _collected(
    recorder: Engine, form: SoftTargetFormat, rows: int, device: torch.device
) -> dict[str, Tensor]:
    """By the names of the form's arrays, tensors (rows, width) that each batch writes its images' rows of."""

    @recorder.on(Events.ITERATION_COMPLETED)
    def _encode(engine: Engine) -> None:
        output = cast(dict[str, Tensor], engine.state.output)
        output |= form.encode(output["logits"])

    buffers = {}
    for name, (dtype, width) in form.arrays.items():
        buffers[name] = torch.zeros(rows, width, device=device, dtype=_reducible(dtype))
        collect_rows(recorder, itemgetter(name), buffers[name])
    return buffers


def _reducible(dtype: torch.dtype) -> torch.dtype:
    """A type that process groups can sum: NCCL and Gloo have no int16."""
    return torch.int32 if dtype == torch.int16 else dtype


def _prepare(folder: SoftTargetFolder) -> int:
    """The views that are done; whether there is room for the rest is seen first."""
    done = folder.views_done
    folder.folder.mkdir(parents=True, exist_ok=True)
    needed, free = folder.bytes_needed, shutil.disk_usage(folder.folder).free
    if not done and needed > free:
        raise UsageError(
            f"The disk must have room for the teacher's soft targets, {needed / 1e9:,.1f} GB in"
            f" {folder.folder}, but has {free / 1e9:,.1f} GB; lower student.views, set"
            " student.soft_target_classes to keep the"
            " largest classes alone, or set LINEAGE_HOME to another disk."
        )
    return done
