"""Format in which a teacher's logits are stored: of all classes, or of the largest ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor

from lineage.errors import UsageError

_LOWEST_LOGIT = torch.finfo(torch.float16).min
_SMALLEST_LOG = -60.0  # e⁻⁶⁰ counts as zero, and 0 · ln 0 would be NaN
_BYTES_PER_VALUE = 2  # float16 and int16
EXPLANATION = "explanation"


@dataclass(frozen=True)
class SoftTargetFormat:
    """Encoding of a teacher's logits for one image.

    All classes: the logits are stored as float16, less their largest, which leaves the softmax as it is. At
    any temperature a probability p is read back as q with |ln q - ln p| ≤ 2⁻¹¹ (ln C + ln p₁ - ln p) to first
    order, where p₁ is the largest; a logit more than 65,504 below the largest is clamped to that distance.

    The k largest classes, for when all would take too much room: the logarithms of their probabilities and of
    the sum of the others are stored, at one temperature. They are read back within 2⁻¹¹ of the logarithm, and
    the sum is spread evenly over the other classes. The total variation from the teacher is at most that sum.

    Attributes:
        num_classes: Number of classes C.
        top: Number of classes k that are kept, from 1 to C - 1; None for all classes.
        temperature: Temperature of the students; None with all classes, which serve any temperature.
        explanation: (H, W) of an explanation that follows the logits, stored as float16 in parts of its
            largest value; None for logits alone.
    """

    num_classes: int
    top: int | None = None
    temperature: float | None = None
    explanation: tuple[PositiveInt, PositiveInt] | None = None

    def __post_init__(self) -> None:
        if self.top is not None and not 1 <= self.top < self.num_classes:
            raise UsageError(
                "student.soft_target_classes must be at least 1 and below the number of classes,"
                f" {self.num_classes}, but got {self.top}; change it, or leave it out to store all."
            )
        if (self.top is None) != (self.temperature is None):
            raise ValueError("temperature must be given with top, and with top alone")

    @property
    def arrays(self) -> dict[str, tuple[torch.dtype, int]]:
        """Type and width of each stored array, by name; a row is one image."""
        arrays = {"logits": (torch.float16, self.num_classes)}
        if self.top is not None:
            arrays = {"log_probabilities": (torch.float16, self.top + 1), "classes": (torch.int16, self.top)}
        if self.explanation is not None:
            arrays[EXPLANATION] = (torch.float16, math.prod(self.explanation))
        return arrays

    @property
    def bytes_per_image(self) -> int:
        """Size on disk of one view of one image."""
        return _BYTES_PER_VALUE * sum(width for _, width in self.arrays.values())

    def encode(self, outputs: Tensor) -> dict[str, Tensor]:
        """Encode logits (B, C), or with an explanation behind them (B, C + H·W).

        Returns:
            Tensors (B, width) by the names of ``arrays``, in float16 or int64.
        """
        logits, explanation = outputs.float().tensor_split([self.num_classes], dim=1)
        encoded = self._encode_logits(logits)
        if self.explanation is not None:
            largest = explanation.amax(1, keepdim=True)
            encoded[EXPLANATION] = (explanation / torch.where(largest > 0, largest, 1)).half()
        return encoded

    def _encode_logits(self, logits: Tensor) -> dict[str, Tensor]:
        if self.top is None:
            return {"logits": (logits - logits.amax(1, keepdim=True)).clamp_min(_LOWEST_LOGIT).half()}
        assert self.temperature is not None
        log_probabilities = torch.log_softmax(logits / self.temperature, dim=1)
        largest, classes = log_probabilities.topk(self.top, dim=1)
        rest = log_probabilities.scatter(1, classes, -math.inf).logsumexp(1, keepdim=True)
        stored = torch.cat([largest, rest], 1).clamp_min(_SMALLEST_LOG)
        return {"log_probabilities": stored.half(), "classes": classes}

    def decode(self, stored: Sequence[Tensor]) -> Tensor:
        """Decode what ``StoredSoftTargets.read`` returned, on any device, to logits, float32 (B, C)."""
        if self.top is None:
            return stored[0].float()
        assert self.temperature is not None
        log_probabilities, classes = stored[:2]
        scaled = log_probabilities.float() * self.temperature
        each = scaled[:, -1:] - self.temperature * math.log(self.num_classes - self.top)
        return each.expand(-1, self.num_classes).scatter(1, classes.long(), scaled[:, :-1])

    def decode_explanation(self, stored: Sequence[Tensor]) -> list[Tensor]:
        """Decode the explanation in what was read, float32 (B, 1, H, W); nothing where none is stored."""
        return [] if self.explanation is None else [stored[-1].float().view(-1, 1, *self.explanation)]
