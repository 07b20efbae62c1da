"""Images of an audit: as many that trained a network as that trained none of its line."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lineage.data.datasets import DataSet
from lineage.evaluation.membership import Flags, Floats, score_images
from lineage.training.measurement import Subset


@dataclass(frozen=True, eq=False)
class AuditImages:
    """Images to attack networks with: N in all, those of the training part first.

    Attributes:
        dataset: Data set that they are from.
        train: Rows of the training part, shape (M,).
        test: Rows of the test part, shape (N - M,).
        members: Whether each image is a member, shape (N,).
    """

    dataset: DataSet
    train: Tensor
    test: Tensor
    members: Flags

    @property
    def num_members(self) -> int:
        """Number of members; so many others are there as well."""
        return int(self.members.sum())

    def among(self, rows: Tensor) -> Flags:
        """Return which of the N images are those rows of the training part."""
        return np.concatenate([torch.isin(self.train, rows).numpy(), np.zeros(len(self.test), dtype=bool)])

    def score(
        self, accelerator: Accelerator, network: nn.Module, who: str, batch_size: int, workers: int
    ) -> Floats:
        """Return the membership score of each image by ``network``, float64, shape (N,).

        Raises:
            IntegrityError: If a score is not finite.
        """
        spec = self.dataset.spec
        parts = [
            Subset(self.dataset.train, self.train, spec, batch_size, workers),
            Subset(self.dataset.test, self.test, spec, batch_size, workers),
        ]
        return np.concatenate([score_images(accelerator, network, part, who) for part in parts if len(part)])


def choose_images(dataset: DataSet, members: Tensor, used: Iterable[Tensor]) -> AuditImages:
    """Choose equally many members and others, as many as there are of the fewer.

    The others are from the training part, where nobody used them, and from the test part. The choice depends
    on the rows alone.

    Args:
        dataset: Data set of the members.
        members: Rows of the training part that trained the network in question, shape (M,).
        used: Rows of the training part that trained any other network of its line.
    """
    length = len(dataset.train)
    unused = torch.ones(length, dtype=torch.bool)
    for rows in (members, *used):
        unused[rows] = False
    # Rows of the test part are counted on from those of the training part
    others = torch.cat([unused.nonzero().flatten(), length + torch.arange(len(dataset.test))])
    count = min(len(members), len(others))
    draw = np.random.default_rng(0)
    members, others = (
        torch.from_numpy(np.sort(draw.permutation(rows.numpy())[:count])) for rows in (members, others)
    )
    chosen = torch.cat([members, others]).sort().values
    in_training_part = chosen < length
    return AuditImages(
        dataset,
        chosen[in_training_part],
        chosen[~in_training_part] - length,
        torch.isin(chosen, members).numpy(),
    )
