"""The term ``prior``: a student's feature maps are completed by its teacher's, as much as the two differ."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from lineage.training.distillation import Gather
from lineage.training.losses import at_least_float32
from lineage.training.maps import Features, Shape, at_one_size
from lineage.training.similarity import linear_cka


class Prior(nn.Module):
    """Mean square error of the teacher's maps, predicted from the student's with some positions given.

    The student's maps, through a 1×1 convolution, get the teacher's values at a random share of positions,
    and go through a small encoder and decoder that must return the teacher's maps. The share is 1 - CKA of
    the two networks' features over the batch of all processes: a student that differs much is told much (DPK,
    Qiu et al., ICLR 2023). The source's exact formula and sizes could not be found: linear CKA of the spatial
    means, and one convolution of stride 2 before one at full size, are ours.

    Positions are drawn from the device's generator, which every epoch seeds. One sample leaves CKA undefined;
    the term is 0 then.

    Args:
        shape: Shape of the student's maps.
        teacher_shape: Shape of the teacher's.
        gather: Function from the rows of one process to those of all.
    """

    def __init__(self, shape: Shape, teacher_shape: Shape, gather: Gather) -> None:
        super().__init__()
        channels = teacher_shape[0]
        self.gather = gather
        self.adapter = nn.Conv2d(shape[0], channels, 1)
        self.encoder = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.decoder = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """Return the term for what student and teacher gave for a batch."""
        maps, teacher_maps = at_least_float32(student.maps), at_least_float32(teacher.maps)
        adapted = self.adapter(maps.to(self.adapter.weight.dtype))
        own, theirs = at_one_size(adapted, teacher_maps.detach().to(adapted.dtype))
        with torch.no_grad():
            rows, teacher_rows = (self.gather(each.mean((2, 3))) for each in (maps, teacher_maps))
            share = 1 - linear_cka(rows, teacher_rows)
            given = torch.rand_like(own[:, :1]) < share
        error = mse_loss(self.complete(torch.where(given, theirs, own)), theirs)
        return error if len(rows) > 1 else 0 * error

    def complete(self, maps: Tensor) -> Tensor:
        """Return the teacher's maps as predicted from ``maps``, of the same shape (B, E, H, W)."""
        code = self.encoder(maps).relu()
        completed: Tensor = self.decoder(interpolate(code, size=maps.shape[2:]))
        return completed
