"""The ensemble of all generations so far: those that came before a generation, pulled, and itself."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lineage.data.datasets import DataSpec
from lineage.errors import LineageError, NotFoundError
from lineage.evaluation.ensemble_metrics import RunningMean
from lineage.models.ensemble import fit_to_data
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_ancestors
from lineage.registry.flavor import load_version
from lineage.registry.store.connection import safe_uri
from lineage.training.devices import make_accelerator, on_main_process
from lineage.training.measurement import Subset, measure

_MOST_BYTES = 64 * 2**20

_seen: OrderedDict[tuple[str, str], Tensor] = OrderedDict()  # logits by model and data, oldest first


def pull_network(version: Version, data: DataSpec) -> nn.Module:
    """The network of a registered version, as it can be used on ``data``.

    Raises:
        NotFoundError: If the store does not hold it.
        IntegrityError: If its weights were altered, or it does not fit the data.
    """
    model = on_main_process(lambda: load_version(version))
    return fit_to_data(model.network, model.spec, data, version.uri)


class RunningEnsemble:
    """The mean of the probabilities of all generations of a line on the test set.

    Forebears are measured one by one, before a generation trains: one that cannot be pulled is noticed then,
    and what is trained is registered all the same, without the number.

    Args:
        test: What they are measured on.
        top_k: K of the metrics.
        from_version: The registered version that the line begins with, if it is not a patriarch grown here.
        tell: Is given a line where there is something to tell.
    """

    def __init__(
        self, test: Subset, top_k: int, from_version: Version | None, tell: Callable[[str], None]
    ) -> None:
        self.test = test
        self.top_k = top_k
        self.from_version = from_version
        self.tell = tell
        self._ensemble: RunningMean | None = RunningMean(test.images.labels)

    def gather(self, versions: Sequence[Version]) -> None:
        """Add the line of ``from_version`` and ``versions``, oldest first, without those already in."""
        ensemble = self._ensemble
        if ensemble is None:
            return
        try:
            for version in [*self._from_line(), *versions][ensemble.size :]:
                ensemble.add(self._logits_of(version))
        except LineageError as error:
            self._ensemble = None
            self.tell(f"the ensemble of all generations so far is left out: {error}")

    def add(self, logits: Tensor) -> dict[str, float]:
        """Take in a generation's own logits; the number that stays with it, or none."""
        if self._ensemble is None:
            return {}
        self._ensemble.add(logits)
        return {"ensemble_accuracy": self._ensemble.accuracy}

    def _logits_of(self, version: Version) -> Tensor:
        """What a version says of the test set, which trials of one study ask again and again."""
        wanted = (version.model_id, self.test.spec.digest)
        if wanted not in _seen:
            network = pull_network(version, self.test.spec)
            accelerator = make_accelerator()
            network.to(accelerator.device)
            logits = measure(accelerator, network, self.test, self.top_k, keep_logits=True).logits
            _seen[wanted] = logits
            while len(_seen) > 1 and sum(kept.nbytes for kept in _seen.values()) > _MOST_BYTES:
                _seen.popitem(last=False)
        return _seen[wanted]

    def _from_line(self) -> list[Version]:
        """``from_version`` and its teachers, oldest first."""
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
