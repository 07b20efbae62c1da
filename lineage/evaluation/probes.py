"""Simple classifiers on frozen features, which measure how well a network knows another data set already.

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
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lineage.errors import UsageError, suggestion

_MOST_ITERATIONS = 1000
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Probe:
    """A kind of classifier with the one setting that validation chooses.

    Attributes:
        setting: Name of the setting in scikit-learn.
        values: Values to choose from, the simplest classifier first: of equally good ones the first is taken.
        build: Function from a seed to an unfitted classifier of features with mean 0 and deviation 1.
    """

    setting: str
    values: tuple[float, ...]
    build: Callable[[int], ClassifierMixin]


PROBES: Mapping[str, Probe] = {
    "logistic": Probe("C", _STRENGTHS, lambda _seed: LogisticRegression(max_iter=_MOST_ITERATIONS)),
    "svm": Probe(
        "C", _STRENGTHS, lambda seed: LinearSVC(max_iter=_MOST_ITERATIONS, random_state=seed % 2**32)
    ),
    "knn": Probe(
        "n_neighbors", (100, 50, 20, 10, 5, 1), lambda _seed: KNeighborsClassifier(algorithm="brute")
    ),
}
"""Probes by name: multinomial logistic regression, one linear SVM a class against the rest, neighbours."""


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Frozen features of some images, with their labels.

    Attributes:
        features: Features, shape (N, D).
        labels: Classes, shape (N,).
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ProbeResult:
    """A fitted probe's accuracies.

    Attributes:
        setting: Name of the setting that was chosen.
        value: Value of the setting that was best in validation.
        validation_accuracy: Accuracy in validation at that value, fitted on the training part alone.
        test_accuracy: Accuracy in the test part, fitted on training and validation part.
        converged: Whether that last fit converged.
    """

    setting: str
    value: float
    validation_accuracy: float
    test_accuracy: float
    converged: bool


def find_probe(name: str) -> Probe:
    """Return the probe called ``name``.

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
    probe: Probe, samples: LabelledFeatures, num_train: int, test: LabelledFeatures, seed: int = 0
) -> ProbeResult:
    """Choose the probe's setting in validation, fit on training and validation part, and read the test once.

    Args:
        probe: A value of ``PROBES``.
        samples: Training part, followed by at least one sample of the validation part.
        num_train: Number of samples in the training part.
        test: Samples to measure on.
        seed: Seed of a classifier that draws.
    """
    values = [value for value in probe.values if probe.setting != "n_neighbors" or value <= num_train]
    fold = np.where(np.arange(len(samples)) < num_train, -1, 0)  # -1: never held out
    pipeline = Pipeline([("scale", StandardScaler()), ("classify", probe.build(seed))])
    search = GridSearchCV(
        pipeline,
        {f"classify__{probe.setting}": values},
        cv=PredefinedSplit(fold),
        refit=False,
        error_score="raise",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(samples.features, samples.labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        pipeline.set_params(**search.best_params_).fit(samples.features, samples.labels)
    return ProbeResult(
        setting=probe.setting,
        value=values[search.best_index_],
        validation_accuracy=float(search.best_score_),
        test_accuracy=float(pipeline.score(test.features, test.labels)),
        converged=not any(issubclass(each.category, ConvergenceWarning) for each in caught),
    )
