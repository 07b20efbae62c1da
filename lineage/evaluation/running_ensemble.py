"""Ensembles that grow member by member, from logits that are computed once."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lineage.data.images import DataSpec
from lineage.errors import LineageError, NotFoundError
from lineage.evaluation.evaluate import pull_network
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_ancestors
from lineage.registry.store.connection import safe_uri
from lineage.training.devices import make_accelerator
from lineage.training.measurement import Subset, measure
from lineage.training.turns import on_main_process

_MOST_CACHED_BYTES = 64 * 2**20

_logits_cache: OrderedDict[tuple[str, str], Tensor] = OrderedDict()
"""Test logits by logged model and data set, oldest first: trials of one study need the same ones again."""


class MeanProbabilities:
    """The weighted mean of several networks' probabilities, in float64.

    Args:
        labels: Classes of the N samples, shape (N,).
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.num_members = 0
        self._sum: Tensor | None = None
        self._total_weight = 0.0

    def add(self, logits: Tensor, weight: float = 1.0) -> None:
        """Add a member by its logits, shape (N, C)."""
        share = weight * logits.to(torch.float64).softmax(1)
        self._sum = share if self._sum is None else self._sum + share
        self._total_weight += weight
        self.num_members += 1

    @property
    def probabilities(self) -> Tensor:
        """Mean over the members, float64, shape (N, C).

        Raises:
            ValueError: If there is no member.
        """
        if self._sum is None:
            raise ValueError("An ensemble must have at least one member, but has none.")
        return self._sum / self._total_weight

    @property
    def logits(self) -> Tensor:
        """Logarithm of the mean, float64, shape (N, C); its softmax is the mean itself."""
        return self.probabilities.clamp_min(torch.finfo(torch.float64).tiny).log()

    @property
    def accuracy(self) -> float:
        """Share of the samples whose label is the ensemble's top class."""
        return (self.probabilities.argmax(1) == self.labels).double().mean().item()


class RunningEnsemble:
    """The ensemble of all generations of a line so far, measured on the test set.

    Earlier generations are measured before the next one trains. If one of them cannot be loaded, the ensemble
    is given up with a message, and later generations are registered without its accuracy.

    Args:
        test: Images to measure on.
        top_k: K of the metrics.
        from_version: Registered version that the line begins with; None for a patriarch grown here.
        notify: Callback for one-line messages.
        pull: Function that loads the network of a version.
    """

    def __init__(
        self,
        test: Subset,
        top_k: int,
        from_version: Version | None,
        notify: Callable[[str], None],
        pull: Callable[[Version, DataSpec], nn.Module] = pull_network,
    ) -> None:
        self.test = test
        self.top_k = top_k
        self.from_version = from_version
        self.notify = notify
        self.pull = pull
        self._mean: MeanProbabilities | None = MeanProbabilities(test.images.labels)

    def gather(self, versions: Sequence[Version]) -> None:
        """Add ``from_version``, its ancestors and ``versions``, oldest first, unless they are members."""
        mean = self._mean
        if mean is None:
            return
        try:
            for version in [*self._read_line(), *versions][mean.num_members :]:
                mean.add(self._logits_of(version))
        except LineageError as error:
            self._mean = None
            self.notify(f"the ensemble of all generations so far is left out: {error}")

    def add(self, logits: Tensor) -> dict[str, float]:
        """Add a new generation by its test logits, shape (N, C).

        Returns:
            ``ensemble_accuracy``, or nothing if the ensemble was given up.
        """
        if self._mean is None:
            return {}
        self._mean.add(logits)
        return {"ensemble_accuracy": self._mean.accuracy}

    def _logits_of(self, version: Version) -> Tensor:
        """Return a version's test logits, shape (N, C), from the cache where it holds them."""
        wanted = (version.model_id, self.test.spec.digest)
        if wanted not in _logits_cache:
            network = self.pull(version, self.test.spec)
            accelerator = make_accelerator()
            network.to(accelerator.device)
            measured = measure(accelerator, network, self.test, self.top_k, keep_logits=True)
            _logits_cache[wanted] = measured.logits
            while len(_logits_cache) > 1 and _cached_bytes() > _MOST_CACHED_BYTES:
                _logits_cache.popitem(last=False)
        return _logits_cache[wanted]

    def _read_line(self) -> list[Version]:
        """Return ``from_version`` and its teachers, oldest first.

        Raises:
            NotFoundError: If a teacher is missing from the store.
        """
        from_version = self.from_version
        if from_version is None:
            return []
        line = [*reversed(on_main_process(lambda: read_ancestors(from_version))), from_version]
        if line[0].teacher is not None:
            raise NotFoundError(
                f"{line[0].uri} names teacher {line[0].teacher}, which {safe_uri()} does not hold. Run"
                f" 'lineage doctor {line[0].name}'."
            )
        return line


def _cached_bytes() -> int:
    return sum(logits.nbytes for logits in _logits_cache.values())
