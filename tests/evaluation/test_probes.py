import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lineage.errors import UsageError
from lineage.evaluation.probes import PROBES, LabelledFeatures, Probe, ProbeResult, find_probe, fit_probe

NUM_CLASSES = 4


def labelled(size: int, seed: int, noise: float = 1.0, features: int = 8) -> LabelledFeatures:
    """Return samples around one centre a class, on features of very different scales."""
    centres = np.random.default_rng(0).normal(size=(NUM_CLASSES, features))
    generator = np.random.default_rng(seed)
    labels = np.arange(size) % NUM_CLASSES
    scales = 10.0 ** np.arange(features)
    values = (centres[labels] + noise * generator.normal(size=(size, features))) * scales
    return LabelledFeatures(values.astype(np.float32), labels)


TRAIN, VALIDATION, TEST = labelled(200, 1), labelled(80, 2), labelled(120, 3)


def joined(first: LabelledFeatures, second: LabelledFeatures) -> LabelledFeatures:
    return LabelledFeatures(
        np.concatenate([first.features, second.features]), np.concatenate([first.labels, second.labels])
    )


def fitted(
    probe: Probe, train: LabelledFeatures, validation: LabelledFeatures, test: LabelledFeatures
) -> ProbeResult:
    return fit_probe(probe, joined(train, validation), len(train), test)


@pytest.mark.parametrize("name", PROBES)
def test_probe_learns_and_is_the_same_again(name: str) -> None:
    found = fitted(PROBES[name], TRAIN, VALIDATION, TEST)
    assert found.test_accuracy > 0.7
    assert found.validation_accuracy > 0.7
    assert found.converged
    assert found.setting == PROBES[name].setting
    assert found.value in PROBES[name].values
    assert fitted(PROBES[name], TRAIN, VALIDATION, TEST) == found


def test_logistic_probe_equals_one_written_out() -> None:
    found = fitted(PROBES["logistic"], TRAIN, VALIDATION, TEST)

    def accuracy(value: float, train: LabelledFeatures, part: LabelledFeatures) -> float:
        scaler = StandardScaler().fit(train.features)
        model = LogisticRegression(C=value, max_iter=1000)
        model.fit(scaler.transform(train.features), train.labels)
        return float(model.score(scaler.transform(part.features), part.labels))

    chosen = {value: accuracy(value, TRAIN, VALIDATION) for value in PROBES["logistic"].values}
    best = min(value for value in chosen if chosen[value] == max(chosen.values()))
    assert (found.value, found.validation_accuracy) == (best, chosen[best])
    assert found.test_accuracy == accuracy(best, joined(TRAIN, VALIDATION), TEST)


def test_simplest_of_equally_good_values_is_chosen() -> None:
    easy = [labelled(40, seed, noise=0.0) for seed in range(3)]
    for probe in PROBES.values():
        fits = [value for value in probe.values if value <= 40 or probe.setting == "C"]
        found = fitted(probe, *easy)
        assert found.validation_accuracy == found.test_accuracy == 1.0
        if probe.setting == "C":
            assert found.value == fits[0]


def test_neighbours_are_no_more_than_there_are_samples() -> None:
    few = labelled(12, 1)
    assert fitted(PROBES["knn"], few, VALIDATION, TEST).value in {10, 5, 1}


def test_test_part_is_no_part_of_the_choice() -> None:
    shuffled = LabelledFeatures(TEST.features, np.roll(TEST.labels, 1))
    honest, other = (fitted(PROBES["logistic"], TRAIN, VALIDATION, part) for part in (TEST, shuffled))
    assert (honest.value, honest.validation_accuracy) == (other.value, other.validation_accuracy)
    assert other.test_accuracy < 0.5


def test_unfinished_fit_is_reported_without_a_warning() -> None:
    hasty = Probe("C", (1e6,), lambda _seed: LogisticRegression(max_iter=1))
    assert not fitted(hasty, TRAIN, VALIDATION, TEST).converged


def test_unknown_probe_is_refused() -> None:
    with pytest.raises(UsageError) as refusal:
        find_probe("logistc")
    assert str(refusal.value) == (
        "A probe must be one of logistic, svm, knn or finetune, but got 'logistc'. Did you mean 'logistic'?"
    )
