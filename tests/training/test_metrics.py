import socket
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy

from lineage.training.losses import top_score_difference
from lineage.training.metrics import CalibrationError, SuperclassShare, classification_metrics

Array = NDArray[np.float64]
Batch = dict[str, Tensor]

CPU = torch.device("cpu")
NUM_CLASSES, TOP_K, NUM_SAMPLES = 12, 4, 300
SUPERCLASSES = torch.arange(NUM_CLASSES) % 3
UNEVEN = [7, 0, 128, 1, 100, 64]

ALWAYS = {
    "accuracy",
    "top5_accuracy",
    "cross_entropy",
    "calibration_error",
    "top_probability",
    "entropy",
    "top_score_difference",
    "secondary_mass",
}


def samples() -> Batch:
    """Logits that know something of the labels, and a teacher that is often of their opinion."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    logits = 1.5 * torch.randn(NUM_SAMPLES, NUM_CLASSES, generator=generator)
    logits[torch.arange(NUM_SAMPLES), labels] += 2
    noise = torch.randn(NUM_SAMPLES, NUM_CLASSES, generator=generator)
    return {
        "logits": logits,
        "labels": labels,
        "indices": torch.arange(NUM_SAMPLES),
        "teacher_predictions": (logits + noise).argmax(1),
    }


def in_batches(data: Batch, sizes: list[int]) -> list[Batch]:
    slices = [slice(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]
    return [{key: value[rows] for key, value in data.items()} for rows in slices]


def evaluate(metrics: dict[str, Metric], batches: list[Batch]) -> dict[str, Any]:
    evaluator = Engine(lambda _, batch: batch)
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    return dict(evaluator.run(batches).metrics)


def all_metrics() -> dict[str, Metric]:
    return classification_metrics(NUM_CLASSES, TOP_K, CPU, SUPERCLASSES, with_teacher=True)


def independent_calibration_error(
    confidences: Array, correct: NDArray[np.bool_], num_bins: int = 15
) -> float:
    error = 0.0
    for b in range(num_bins):
        inside = (confidences > b / num_bins) & (confidences <= (b + 1) / num_bins)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidences[inside].mean())
    return error


def independent_superclass_share(probabilities: Array, labels: NDArray[np.int64]) -> float:
    inside = everywhere = 0.0
    for row, label in zip(probabilities, labels, strict=True):
        for secondary in np.argsort(-row)[1:TOP_K]:
            everywhere += row[secondary]
            inside += row[secondary] * (secondary % 3 == label % 3)
    return inside / everywhere


def independent_metrics(data: Batch) -> dict[str, float]:
    labels = data["labels"].numpy()
    probabilities = softmax(data["logits"].double().numpy(), axis=1)
    predictions = probabilities.argmax(1)
    ranked = -np.sort(-probabilities, axis=1)
    classes = np.arange(NUM_CLASSES)
    return {
        "accuracy": accuracy_score(labels, predictions),
        "top5_accuracy": top_k_accuracy_score(labels, probabilities, k=5, labels=classes),
        "cross_entropy": log_loss(labels, probabilities, labels=classes),
        "calibration_error": independent_calibration_error(ranked[:, 0], predictions == labels),
        "top_probability": ranked[:, 0].mean(),
        "entropy": entropy(probabilities, axis=1).mean(),
        "top_score_difference": (ranked[:, 0] - ranked[:, 1:TOP_K].mean(1)).mean(),
        "secondary_mass": ranked[:, 1:TOP_K].sum(1).mean(),
        "superclass_share": independent_superclass_share(probabilities, labels),
        "agreement": accuracy_score(data["teacher_predictions"].numpy(), predictions),
    }


def test_metrics_equal_independent_formulas_over_uneven_batches() -> None:
    data = samples()

    measured = evaluate(all_metrics(), in_batches(data, UNEVEN))

    assert measured == pytest.approx(independent_metrics(data), abs=2e-7)
    assert all(type(value) is float for value in measured.values())


def test_metrics_do_not_depend_on_the_batches() -> None:
    data = samples()

    at_once = evaluate(all_metrics(), [data])

    assert evaluate(all_metrics(), in_batches(data, UNEVEN)) == pytest.approx(at_once, abs=1e-7)


def test_metrics_forget_the_last_pass() -> None:
    metrics, data = all_metrics(), samples()
    evaluator = Engine(lambda _, batch: batch)
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    first, second = in_batches(data, [200, 100])

    evaluator.run([first])
    evaluator.run([second])

    assert evaluator.state.metrics == evaluate(all_metrics(), [second])


def test_metrics_take_inference_tensors() -> None:
    batches = in_batches(samples(), UNEVEN)

    def infer(_: Engine, batch: Batch) -> Batch:
        with torch.inference_mode():
            return {key: value.clone() for key, value in batch.items()}

    evaluator = Engine(infer)
    for name, metric in all_metrics().items():
        metric.attach(evaluator, name)

    assert evaluator.run(batches).metrics == evaluate(all_metrics(), batches)


def test_metrics_never_wait_for_the_device_within_a_pass() -> None:
    """A tensor on the meta device has no values to wait for: reading one raises."""
    meta = torch.device("meta")
    evaluator = Engine(lambda _, batch: batch)
    for name, metric in classification_metrics(NUM_CLASSES, TOP_K, meta, SUPERCLASSES, True).items():
        metric.attach(evaluator, name)
    on_meta = {key: value.to(meta) for key, value in samples().items()}
    evaluator.state.output = on_meta  # type: ignore[assignment]

    evaluator.fire_event(Events.EPOCH_STARTED)
    evaluator.fire_event(Events.ITERATION_COMPLETED)

    with pytest.raises(RuntimeError, match="meta"):
        evaluator.fire_event(Events.EPOCH_COMPLETED)


def test_metrics_are_summed_in_float64() -> None:
    batches = [samples()] * 50
    logits, labels = batches[0]["logits"], batches[0]["labels"]

    measured = evaluate(all_metrics(), batches)

    losses = cross_entropy(logits, labels, reduction="none").double()
    assert measured["cross_entropy"] == pytest.approx(losses.mean().item(), rel=1e-13)
    masses = logits.softmax(1).topk(TOP_K).values[:, 1:].sum(1).double()
    assert measured["secondary_mass"] == pytest.approx(masses.mean().item(), rel=1e-7)


def test_metrics_are_named_as_asked() -> None:
    assert set(classification_metrics(NUM_CLASSES, TOP_K, CPU)) == ALWAYS
    assert set(classification_metrics(NUM_CLASSES, TOP_K, CPU, SUPERCLASSES)) == ALWAYS | {"superclass_share"}
    assert set(classification_metrics(NUM_CLASSES, TOP_K, CPU, with_teacher=True)) == ALWAYS | {"agreement"}


def test_top5_accuracy_takes_all_classes_where_there_are_fewer() -> None:
    data = {"logits": torch.randn(9, 3), "labels": torch.arange(9) % 3}

    assert evaluate(classification_metrics(3, 2, CPU), [data])["top5_accuracy"] == 1


def test_top_score_difference_of_the_pass_is_that_of_the_loss() -> None:
    data = samples()

    measured = evaluate(all_metrics(), in_batches(data, UNEVEN))["top_score_difference"]

    assert measured == pytest.approx(top_score_difference(data["logits"].double(), TOP_K).item(), abs=1e-7)


def test_metrics_of_a_saturated_network_are_finite() -> None:
    logits = torch.zeros(4, NUM_CLASSES)
    logits[:, 0] = 1e4
    data = {
        "logits": logits,
        "labels": torch.arange(4),
        "teacher_predictions": torch.zeros(4, dtype=torch.int64),
    }

    measured = evaluate(all_metrics(), [data])

    assert measured == {
        "accuracy": 0.25,
        "top5_accuracy": measured["top5_accuracy"],
        "cross_entropy": 7500,
        "calibration_error": 0.75,
        "top_probability": 1,
        "entropy": 0,
        "top_score_difference": 1,
        "secondary_mass": 0,
        "superclass_share": 0,
        "agreement": 1,
    }


@pytest.mark.parametrize("top_k", [0, 1])
def test_metrics_refuse_a_top_k_that_ranks_no_classes(top_k: int) -> None:
    with pytest.raises(ValueError, match=rf"^top_k must be between 2 and .* classes, 12, but got {top_k}\.$"):
        classification_metrics(NUM_CLASSES, top_k, CPU)


def test_metrics_refuse_superclasses_of_other_classes() -> None:
    with pytest.raises(ValueError, match=r"^superclasses must have one entry .* 12 classes, .* is \(5,\)\.$"):
        classification_metrics(NUM_CLASSES, TOP_K, CPU, SUPERCLASSES[:5])


@pytest.mark.parametrize("name", sorted(ALWAYS | {"superclass_share", "agreement"}))
def test_metric_refuses_to_be_computed_from_no_sample(name: str) -> None:
    empty = in_batches(samples(), [0, NUM_SAMPLES])[0]

    with pytest.raises(NotComputableError, match="at least one"):
        evaluate({name: all_metrics()[name]}, [empty])


def logits_of(confidences: Array) -> Tensor:
    """Float64 logits of two classes, the first one's probability being ``confidences``."""
    other = np.clip(1 - confidences, 1e-300, None)
    return torch.from_numpy(np.stack([np.log(confidences), np.log(other)], axis=1))


def calibration_error(logits: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    metric = CalibrationError(num_bins)
    metric.update((logits, labels))
    return float(metric.compute())


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_equals_an_independent_implementation(num_bins: int) -> None:
    generator = np.random.default_rng(0)
    confidences = generator.uniform(0.5, 1, 1_000)
    correct = generator.uniform(size=1_000) < confidences**2

    measured = calibration_error(logits_of(confidences), torch.from_numpy(~correct).long(), num_bins)

    assert measured == pytest.approx(independent_calibration_error(confidences, correct, num_bins), abs=1e-12)


@pytest.mark.parametrize("confidence", [0.5, 0.75, 1.0])
def test_calibration_error_puts_a_border_into_the_bin_below(confidence: float) -> None:
    """With 4 bins each is a border: a sample a little below shares its bin, one a little above does not."""
    labels = torch.tensor([0, 1])  # right, wrong
    logits = logits_of(np.array([confidence, confidence - 2e-4 if confidence > 0.5 else 0.5]))

    below = calibration_error(logits, labels, num_bins=4)

    assert below == pytest.approx(abs(confidence - 0.5), abs=2e-4)
    if confidence < 1:
        above = calibration_error(logits_of(np.array([confidence, confidence + 2e-4])), labels, num_bins=4)
        assert above == pytest.approx(0.5, abs=2e-4)


def test_calibration_error_compares_confidences_with_exact_borders() -> None:
    """In float32, 15 · 0.6 rounds to 9 for the float32 0.6, which lies above 9 / 15 in truth."""
    probabilities = torch.tensor([[0.6, 0.4], [0.59, 0.41]])
    logits = probabilities.log()
    confidences = logits.softmax(1)[:, 0].double().numpy()

    measured = calibration_error(logits, torch.tensor([0, 1]))

    expected = independent_calibration_error(confidences, np.array([True, False]))
    assert measured == pytest.approx(expected, abs=1e-9)


def test_calibration_error_is_zero_for_certain_and_right_and_one_for_certain_and_wrong() -> None:
    logits = torch.tensor([[200.0, 0, 0]]).expand(4, 3)

    assert calibration_error(logits, torch.tensor([0, 0, 0, 0])) == 0
    assert calibration_error(logits, torch.tensor([1, 2, 1, 2])) == 1


def test_superclass_share_is_one_inside_the_labels_superclass_and_zero_outside() -> None:
    logits = torch.tensor([[9.0, 5.0, -30.0, -30.0], [9.0, -30.0, 5.0, -30.0]])
    metric = SuperclassShare(torch.tensor([0, 0, 1, 1]), top_k=2)

    shares = []
    for row in logits:
        metric.reset()
        metric.update((row.unsqueeze(0), torch.tensor([0])))
        shares.append(metric.compute())

    assert shares == [1, 0]


def test_superclass_share_weighs_samples_by_their_secondary_mass() -> None:
    probabilities = torch.tensor([[0.6, 0.4, 0.0], [0.9, 0.0, 0.1]]).clamp(min=1e-30)
    metric = SuperclassShare(torch.tensor([0, 0, 1]), top_k=2)

    metric.update((probabilities.log(), torch.tensor([0, 0])))

    assert metric.compute() == pytest.approx(0.4 / 0.5)


@pytest.mark.parametrize("name", ["calibration_error", "superclass_share"])
def test_metric_is_restored_from_its_state(name: str) -> None:
    data = samples()
    metric, other = all_metrics()[name], all_metrics()[name]
    metric.update((data["logits"], data["labels"]))

    other.load_state_dict(metric.state_dict())

    assert other.compute() == metric.compute()


def _evaluate_on_a_rank(rank: int, port: int, splits: list[list[list[int]]], folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    measured = []
    for sizes in splits:
        share = in_batches(samples(), [sum(part) for part in sizes])[rank]
        measured.append(evaluate(all_metrics(), in_batches(share, sizes[rank])))
    torch.save(measured, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_metrics_are_the_same_on_two_processes(tmp_path: Path) -> None:
    uneven, one_without_samples = [[100, 29, 0], [150, 21, 0]], [[NUM_SAMPLES], [0]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    spawn(  # type: ignore[no-untyped-call]
        _evaluate_on_a_rank, args=(port, [uneven, one_without_samples], str(tmp_path)), nprocs=2
    )

    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    assert ranks[0] == [pytest.approx(evaluate(all_metrics(), [samples()]), abs=1e-7)] * 2
