"""Simple classifiers on frozen features: how much of another data set a network knows already.

The one setting of a probe, its regularisation or its number of neighbours, is chosen on a validation part of
the target's training images. The probe is then fitted again on training and validation images together, as in
Kornblith, Shlens and Le (*Do Better ImageNet Models Transfer Better?*, CVPR 2019), and reads the test part
once.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lineage.errors import UsageError, suggestion

_MOST_ITERATIONS = 1000
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Probe:
    """A kind of classifier with the one setting that validation chooses.

    Attributes:
        setting: Its name in scikit-learn.
        values: To choose from, the simplest classifier first: it is taken where several are equally good.
        build: From a value and a seed to an unfitted classifier of features with mean 0 and deviation 1.
    """

    setting: str
    values: tuple[float, ...]
    build: Callable[[float, int], ClassifierMixin]


PROBES: Mapping[str, Probe] = {
    "logistic": Probe(
        "C", _STRENGTHS, lambda value, _seed: LogisticRegression(C=value, max_iter=_MOST_ITERATIONS)
    ),
    "svm": Probe(
        "C",
        _STRENGTHS,
        lambda value, seed: LinearSVC(C=value, max_iter=_MOST_ITERATIONS, random_state=seed % 2**32),
    ),
    "knn": Probe(
        "n_neighbors",
        (100, 50, 20, 10, 5, 1),
        lambda value, _seed: KNeighborsClassifier(int(value), algorithm="brute"),
    ),
}
"""By name: multinomial logistic regression, one linear SVM a class against the rest, nearest neighbours."""


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Frozen features of one part.

    Attributes:
        features: Shape (N, D).
        labels: Shape (N,).
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def and_also(self, other: "LabelledFeatures") -> "LabelledFeatures":
        """Both parts, this one first."""
        return LabelledFeatures(
            np.concatenate([self.features, other.features]), np.concatenate([self.labels, other.labels])
        )


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Attributes:
        setting: Name of what was chosen.
        value: That was best in validation.
        validation_accuracy: With that value, fitted on the training part alone.
        test_accuracy: Fitted on training and validation part.
        converged: Whether that last fit came to its end.
    """

    setting: str
    value: float
    validation_accuracy: float
    test_accuracy: float
    converged: bool


def find_probe(name: str) -> Probe:
    """The probe called ``name``.

    Raises:
        UsageError: If there is none.
    """
    if name not in PROBES:
        raise UsageError(
            f"A probe must be one of {', '.join(PROBES)} or finetune, but got '{name}'."
            f"{suggestion(name, [*PROBES, 'finetune'])}"
        )
    return PROBES[name]


def fit_probe(
    probe: Probe,
    train: LabelledFeatures,
    validation: LabelledFeatures,
    test: LabelledFeatures,
    seed: int = 0,
) -> Probed:
    """Choose the probe's setting on ``validation``, fit on both, and read ``test`` once.

    Args:
        probe: Of ``PROBES``.
        train: To fit on.
        validation: To choose on; not empty.
        test: To measure on.
        seed: Of what a classifier draws, if anything.
    """
    values = [value for value in probe.values if probe.setting != "n_neighbors" or value <= len(train)]
    accuracies = {value: _fit(probe, value, train, seed).accuracy(validation) for value in values}
    best = max(accuracies, key=lambda value: accuracies[value])  # the first of equals
    final = _fit(probe, best, train.and_also(validation), seed)
    return Probed(probe.setting, best, accuracies[best], final.accuracy(test), final.converged)


@dataclass(frozen=True, eq=False)
class _Fitted:
    classifier: ClassifierMixin
    converged: bool

    def accuracy(self, part: LabelledFeatures) -> float:
        return float((self.classifier.predict(part.features) == part.labels).mean())


def _fit(probe: Probe, value: float, part: LabelledFeatures, seed: int) -> _Fitted:
    classifier = make_pipeline(StandardScaler(), probe.build(value, seed))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(part.features, part.labels)
    unfinished = [each for each in heard if issubclass(each.category, ConvergenceWarning)]
    return _Fitted(classifier, not unfinished)
