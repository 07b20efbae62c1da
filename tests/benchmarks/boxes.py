"""torchdistill's own box for distillation with Hinton's loss, on images in memory, as its users run it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler
from torchdistill.core.distillation import DistillationBox, get_distillation_box
from torchvision import transforms

from lineage.data.images import DataSpec, MemoryImages


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR100 gives them, with the usual transforms on Pillow's images.

    Args:
        images: RGB images in memory.
        rows: Rows of them to give.
        spec: Their description.
        crop_padding: Pixels of zeros on each side before a random crop, after which images are flipped at
            random; None to give images as evaluations see them.
    """

    def __init__(
        self, images: MemoryImages, rows: Tensor, spec: DataSpec, crop_padding: int | None = None
    ) -> None:
        self.pixels, self.labels = images.pixels[rows].numpy(), images.labels[rows].tolist()
        shown: list[Callable[..., Any]] = [transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)]
        if crop_padding is not None:
            cropped = transforms.RandomCrop(spec.input_shape[1:], padding=crop_padding)
            shown = [cropped, transforms.RandomHorizontalFlip(), *shown]
        self.transform = transforms.Compose(shown)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def make_box(  # noqa: PLR0917 - each is one setting of torchdistill's configuration
    teacher: nn.Module,
    student: nn.Module,
    classifier: str,
    pictures: Pictures,
    batch_size: int,
    label_weight: float,
    temperature: float,
    sgd: Mapping[str, Any],
    cosine_steps: int | None = None,
) -> DistillationBox:
    """Return a box that distils on the CPU with ``KDLoss``, its loader, its hooks and its optimizer.

    Args:
        teacher: Network that teaches, in training or evaluation mode, in which the box leaves it.
        student: Network to train.
        classifier: Name of the module in both networks whose output are the logits.
        pictures: Images to train on.
        batch_size: Images per step; an incomplete last batch is dropped.
        label_weight: Weight of cross-entropy against the divergence.
        temperature: Divisor of both logits in the divergence.
        sgd: Arguments of ``torch.optim.SGD``.
        cosine_steps: Steps in which the learning rate falls to 0 along a cosine; it is constant if None.
    """
    loss = {
        "student_module_path": classifier,
        "student_module_io": "output",
        "teacher_module_path": classifier,
        "teacher_module_io": "output",
        "temperature": temperature,
        "alpha": label_weight,
        "reduction": "batchmean",
    }
    network = {"forward_proc": "forward_batch_only", "forward_hook": {"output": [classifier]}}
    config: dict[str, Any] = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": batch_size, "num_workers": 0, "drop_last": True},
        },
        "teacher": network | {"requires_grad": False},
        "student": network | {"requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": dict(sgd)},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }
    if cosine_steps is not None:
        kwargs = {"T_max": cosine_steps}
        config["scheduler"] = {"key": "CosineAnnealingLR", "kwargs": kwargs, "scheduling_step": 1}
    return get_distillation_box(
        teacher, student, {"train": pictures}, config, torch.device("cpu"), None, False, 1
    )
