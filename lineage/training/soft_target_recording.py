"""Recording of a teacher's soft targets: an Ignite engine whose epochs are views of all training images."""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import cast

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from lineage.data.augmentation import Augmentation
from lineage.data.workers import stop_workers
from lineage.training.engines import collect_rows, make_evaluator
from lineage.training.measurement import Subset
from lineage.training.soft_target_folder import SoftTargetFolder
from lineage.training.soft_target_format import SoftTargetFormat
from lineage.training.soft_targets import SubsetName
from lineage.training.teachers import LiveTeacher
from lineage.training.turns import on_main_process


def record_soft_targets(
    teacher: LiveTeacher,
    train: Subset,
    others: Mapping[SubsetName, Subset],
    augmentation: Augmentation,
    data_seed: int,
    folder: SoftTargetFolder,
    attach: Callable[[Engine], None] = lambda _: None,
) -> None:
    """Write what the teacher gives for every view of ``train``, from where a killed process stopped.

    The teacher runs under autocast, as it would in training. The logits of one view stay on the device until
    the view is complete; rank 0 alone writes. All ranks must call it.

    Args:
        teacher: Frozen network that computes the logits.
        train: Training images.
        others: Subsets for which the predicted classes alone are kept.
        augmentation: Augmentation that makes the views.
        data_seed: Seed of the views.
        folder: Folder to write to; only rank 0's counts.
        attach: Callback that adds handlers to the engine.

    Raises:
        UsageError: If the disk has no room for them.
    """
    if on_main_process(lambda: folder.is_complete):
        return
    accelerator = teacher.accelerator
    on_main_process(folder.reserve)
    done = on_main_process(lambda: folder.views_done)
    outputs = teacher.network if folder.format.explanation is None else _Outputs(teacher)
    recorder = make_evaluator(accelerator, outputs, {}, len(train), autocast=True)
    buffers = _attach_buffers(recorder, folder.format, len(train), accelerator.device)

    loader, order = train.views(accelerator, augmentation, data_seed)

    @recorder.on(Events.EPOCH_STARTED)
    def _start(engine: Engine) -> None:
        order.view = engine.state.epoch
        engine.set_data(loader)

    @recorder.on(Events.EPOCH_COMPLETED)
    def _write(engine: Engine) -> None:
        whole = {name: accelerator.reduce(buffer, reduction="sum") for name, buffer in buffers.items()}
        on_main_process(lambda: folder.write_view(engine.state.epoch, whole))

    attach(recorder)
    if done < folder.num_views:  # Ignite starts a finished engine from zero
        length = len(loader)
        recorder.load_state_dict({"epoch": done, "epoch_length": length, "max_epochs": folder.num_views})
        try:
            recorder.run(max_epochs=folder.num_views)
        finally:
            stop_workers(loader)
    predictions = {name: teacher.predictions(name, subset) for name, subset in others.items()}
    on_main_process(lambda: folder.finish(predictions))


class _Outputs(nn.Module):
    """A teacher's logits, followed by its explanations: shape (B, C + H * W)."""

    def __init__(self, teacher: LiveTeacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        logits, (explanation,) = self.teacher.teach(images)
        return torch.cat([logits, explanation.flatten(1)], 1)


def _attach_buffers(
    recorder: Engine, format: SoftTargetFormat, num_rows: int, device: torch.device
) -> dict[str, Tensor]:
    """Attach buffers that each batch writes its encoded rows into: (rows, width) by names of arrays."""

    @recorder.on(Events.ITERATION_COMPLETED)
    def _encode(engine: Engine) -> None:
        output = cast(dict[str, Tensor], engine.state.output)
        output |= format.encode(output["logits"])

    buffers = {}
    for name, (dtype, width) in format.arrays.items():
        buffers[name] = torch.zeros(num_rows, width, device=device, dtype=_reducible(dtype))
        collect_rows(recorder, itemgetter(name), buffers[name])
    return buffers


def _reducible(dtype: torch.dtype) -> torch.dtype:
    """Return a type that process groups can sum: NCCL and Gloo have no int16."""
    return torch.int32 if dtype == torch.int16 else dtype
