from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from torch import Tensor
from torch.nn.functional import cross_entropy

from lineage.errors import RecipeError
from lineage.training.distillation import distillation_loss
from lineage.training.losses import (
    OBJECTIVES,
    build_objective,
    confidence_penalty_loss,
    label_smoothing_loss,
    objective_settings,
    strict_loss,
    tolerant_loss,
    top_score_difference,
)

Array = NDArray[np.float64]
Loss = Callable[[Tensor, Tensor], Tensor]

SETTINGS: dict[str, float | int] = {"strictness": 0.6, "top_k": 4, "smoothing": 0.2, "penalty": 0.3}
TEACHER = torch.from_numpy(3 * np.random.default_rng(1).standard_normal((8, 7)))


def student_loss(logits: Tensor, labels: Tensor) -> Tensor:
    teacher_logits = TEACHER[: len(logits)]
    if logits.dtype != torch.float64:
        teacher_logits = teacher_logits.float()
    return distillation_loss(logits, teacher_logits, labels, label_weight=0.3, temperature=4)


LOSSES: dict[str, Loss] = {
    "tolerant": partial(tolerant_loss, strictness=0.6, top_k=4),
    "strict": strict_loss,
    "label-smoothing": partial(label_smoothing_loss, smoothing=0.2),
    "confidence-penalty": partial(confidence_penalty_loss, penalty=0.3),
    "student": student_loss,
}


def numpy_cross_entropy(logits: Array, labels: NDArray[np.int64]) -> float:
    return float(np.mean([-log_softmax(row)[label] for row, label in zip(logits, labels, strict=True)]))


def numpy_gap(logits: Array, k: int) -> float:
    gaps = []
    for row in softmax(logits, axis=1):
        first, *others = sorted(row, reverse=True)[:k]
        gaps.append(first - sum(others) / (k - 1))
    return float(np.mean(gaps))


def numpy_divergence(logits: Array, teacher_logits: Array, temperature: float) -> float:
    teacher, student = softmax(teacher_logits / temperature, axis=1), softmax(logits / temperature, axis=1)
    return float((teacher * np.log(teacher / student)).sum(axis=1).mean())


def numpy_loss(name: str, logits: Array, labels: NDArray[np.int64]) -> float:
    hard = numpy_cross_entropy(logits, labels)
    match name:
        case "tolerant":
            return 0.6 * hard + 0.4 * numpy_gap(logits, 4)
        case "label-smoothing":
            return float(0.8 * hard + 0.2 * np.mean(-log_softmax(logits, axis=1)))
        case "confidence-penalty":
            probabilities = softmax(logits, axis=1)
            return float(hard - 0.3 * -(probabilities * np.log(probabilities)).sum(axis=1).mean())
        case "student":
            return 0.3 * hard + 0.7 * 16 * numpy_divergence(logits, TEACHER.numpy()[: len(logits)], 4)
    return hard


@pytest.fixture
def logits() -> Tensor:
    return torch.from_numpy(3 * np.random.default_rng(0).standard_normal((8, 7)))


@pytest.fixture
def labels() -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(0, 7, 8))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_an_independent_formula(name: str, logits: Tensor, labels: Tensor) -> None:
    value = LOSSES[name](logits, labels)

    assert value.dtype == torch.float64
    assert value.shape == ()
    assert value.item() == pytest.approx(numpy_loss(name, logits.numpy(), labels.numpy()), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_has_the_gradient_of_its_formula(name: str, logits: Tensor, labels: Tensor) -> None:
    assert torch.autograd.gradcheck(LOSSES[name], (logits.requires_grad_(), labels))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_upcasts_half_precision_logits(
    name: str, dtype: torch.dtype, logits: Tensor, labels: Tensor
) -> None:
    rounded = logits.to(dtype).requires_grad_()

    value = LOSSES[name](rounded, labels)
    (gradient,) = torch.autograd.grad(value, rounded)

    expected = numpy_loss(name, rounded.detach().double().numpy(), labels.numpy())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


def test_student_loss_upcasts_half_precision_teacher_logits(logits: Tensor, labels: Tensor) -> None:
    rounded = TEACHER.bfloat16()

    value = distillation_loss(logits, rounded, labels, label_weight=0, temperature=2)

    expected = 4 * numpy_divergence(logits.numpy(), rounded.double().numpy(), 2)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_takes_a_batch_of_one(name: str, logits: Tensor, labels: Tensor) -> None:
    value = LOSSES[name](logits[:1], labels[:1])

    assert value.item() == pytest.approx(numpy_loss(name, logits[:1].numpy(), labels[:1].numpy()), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e3, -1e3])
def test_loss_stays_finite_on_extreme_logits(name: str, scale: float, labels: Tensor) -> None:
    logits = torch.zeros(8, 7)
    logits[:, 3] = scale
    logits.requires_grad_()

    value = LOSSES[name](logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)

    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_never_waits_for_the_device(name: str) -> None:
    """A tensor on the meta device has no values to wait for: reading one raises."""
    logits = torch.empty(8, 7, device="meta", requires_grad=True)
    labels = torch.empty(8, dtype=torch.int64, device="meta")

    value = build_objective(name, SETTINGS)(logits, labels)

    assert torch.autograd.grad(value, logits)[0].shape == (8, 7)


def test_student_loss_never_waits_for_the_device() -> None:
    logits = torch.empty(8, 7, device="meta", requires_grad=True)
    labels = torch.empty(8, dtype=torch.int64, device="meta")

    value = distillation_loss(
        logits, torch.empty(8, 7, device="meta"), labels, label_weight=0.3, temperature=4
    )

    assert torch.autograd.grad(value, logits)[0].shape == (8, 7)


@pytest.mark.parametrize(
    "loss",
    [
        partial(tolerant_loss, strictness=1, top_k=4),
        partial(label_smoothing_loss, smoothing=0),
        partial(confidence_penalty_loss, penalty=0),
        lambda logits, labels: distillation_loss(logits, TEACHER, labels, label_weight=1, temperature=4),
    ],
    ids=["strictness 1", "smoothing 0", "penalty 0", "label_weight 1"],
)
def test_loss_at_its_limit_is_cross_entropy(loss: Loss, logits: Tensor, labels: Tensor) -> None:
    assert torch.equal(loss(logits, labels), cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("loss", "limit"),
    [
        (partial(tolerant_loss, top_k=4), {"strictness": 1 - 1e-9}),
        (label_smoothing_loss, {"smoothing": 1e-9}),
        (confidence_penalty_loss, {"penalty": 1e-9}),
        (partial(distillation_loss, teacher_logits=TEACHER, temperature=4.0), {"label_weight": 1 - 1e-9}),
    ],
)
def test_loss_nears_its_limit_without_a_jump(
    loss: Callable[..., Tensor], limit: dict[str, float], logits: Tensor, labels: Tensor
) -> None:
    value = loss(logits, labels=labels, **limit)

    assert value.item() == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-6)


def test_top_score_difference_is_zero_for_equal_and_one_for_single_scores() -> None:
    assert top_score_difference(torch.zeros(3, 5), 4).item() == 0
    assert top_score_difference(torch.tensor([[200.0, 0, 0, 0, 0]]), 4).item() == 1


@pytest.mark.parametrize("k", [2, 3, 7])
def test_top_score_difference_equals_an_independent_formula(k: int, logits: Tensor) -> None:
    assert top_score_difference(logits, k).item() == pytest.approx(numpy_gap(logits.numpy(), k), rel=1e-12)


def test_top_score_difference_over_all_classes_follows_from_the_top_probability(logits: Tensor) -> None:
    top = logits.softmax(1).amax(1)

    assert torch.allclose(top_score_difference(logits, 7), (top - (1 - top) / 6).mean())


def test_top_score_difference_does_not_divide_by_k_and_ranks_probabilities_not_logits() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log() + 7

    assert top_score_difference(logits, 3).item() == pytest.approx(0.5 - (0.3 + 0.2) / 2)


def test_tolerant_loss_ranks_classes_whether_or_not_the_label_is_first(logits: Tensor) -> None:
    gaps = {
        round((tolerant_loss(logits, label, 0.5, 3) - 0.5 * cross_entropy(logits, label)).item(), 12)
        for label in (logits.argmax(1), logits.argmin(1))
    }

    assert gaps == {round(0.5 * numpy_gap(logits.numpy(), 3), 12)}


@pytest.mark.parametrize("label_weight", [0, 0.5])
@pytest.mark.parametrize("temperature", [1, 4])
def test_student_that_equals_its_teacher_has_no_divergence_and_no_gradient(
    label_weight: float, temperature: float, labels: Tensor
) -> None:
    logits = TEACHER.clone().requires_grad_()

    value = distillation_loss(logits, TEACHER, labels, label_weight, temperature)
    hard = label_weight * cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(value - hard, logits)

    assert (value - hard).item() == pytest.approx(0, abs=1e-15)
    assert gradient.abs().max().item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("temperature", [0.5, 1, 3])
def test_divergence_runs_from_teacher_to_student_per_sample_times_temperature_squared(
    temperature: float, logits: Tensor, labels: Tensor
) -> None:
    value = distillation_loss(logits, TEACHER, labels, label_weight=0, temperature=temperature).item()

    expected = temperature**2 * numpy_divergence(logits.numpy(), TEACHER.numpy(), temperature)
    reverse = temperature**2 * numpy_divergence(TEACHER.numpy(), logits.numpy(), temperature)
    assert value == pytest.approx(expected, rel=1e-12)
    assert value != pytest.approx(reverse, rel=0.01)
    assert value != pytest.approx(expected / logits.shape[1], rel=0.01)  # reduction="mean"


def test_divergence_keeps_the_size_of_its_gradient_at_high_temperature(logits: Tensor) -> None:
    logits.requires_grad_()

    value = distillation_loss(logits, TEACHER, torch.zeros(8, dtype=torch.int64), 0, temperature=1e4)
    (gradient,) = torch.autograd.grad(value, logits)

    centred = (logits - logits.mean(1, keepdim=True)) - (TEACHER - TEACHER.mean(1, keepdim=True))
    expected = centred / logits.numel()  # Hinton et al. 2015, equation 4
    assert torch.allclose(gradient, expected, rtol=0.01, atol=1e-4)


def test_divergence_does_not_depend_on_the_labels(logits: Tensor, labels: Tensor) -> None:
    values = [distillation_loss(logits, TEACHER, y, 0, 2) for y in (labels, (labels + 1) % 7)]

    assert torch.equal(*values)


@pytest.mark.parametrize("temperature", [1, 4])
def test_student_loss_is_linear_in_the_label_weight(
    temperature: float, logits: Tensor, labels: Tensor
) -> None:
    parts = [distillation_loss(logits, TEACHER, labels, weight, temperature) for weight in (0, 0.5, 1)]

    assert torch.allclose(parts[1], (parts[0] + parts[2]) / 2)


def test_student_loss_sends_no_gradient_to_the_teacher(logits: Tensor, labels: Tensor) -> None:
    teacher_logits = TEACHER.clone().requires_grad_()

    value = distillation_loss(logits.requires_grad_(), teacher_logits, labels, 0.5, 2)
    gradients = torch.autograd.grad(value, (logits, teacher_logits), allow_unused=True)

    assert gradients[0] is not None
    assert gradients[1] is None


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        (
            tolerant_loss,
            {"strictness": 0.0, "top_k": 3},
            "strictness must be greater than 0 and at most 1, but got 0.0.",
        ),
        (
            tolerant_loss,
            {"strictness": 1.5, "top_k": 3},
            "strictness must be greater than 0 and at most 1, but got 1.5.",
        ),
        (
            tolerant_loss,
            {"strictness": 1, "top_k": 8},
            "top_k must be between 2 and the number of classes, 7, but got 8.",
        ),
        (
            tolerant_loss,
            {"strictness": 0.5, "top_k": 1},
            "top_k must be between 2 and the number of classes, 7, but got 1.",
        ),
        (
            label_smoothing_loss,
            {"smoothing": 1.0},
            "smoothing must be at least 0 and less than 1, but got 1.0.",
        ),
        (
            label_smoothing_loss,
            {"smoothing": -0.1},
            "smoothing must be at least 0 and less than 1, but got -0.1.",
        ),
        (confidence_penalty_loss, {"penalty": -1}, "penalty must be at least 0, but got -1."),
        (confidence_penalty_loss, {"penalty": float("nan")}, "penalty must be at least 0, but got nan."),
        (
            distillation_loss,
            {"teacher_logits": TEACHER, "label_weight": 1.1, "temperature": 1},
            "label_weight must be between 0 and 1, but got 1.1.",
        ),
        (
            distillation_loss,
            {"teacher_logits": TEACHER, "label_weight": 1, "temperature": 0},
            "temperature must be greater than 0, but got 0.",
        ),
        (
            distillation_loss,
            {"teacher_logits": TEACHER[:, :5], "label_weight": 0.5, "temperature": 1},
            "teacher_logits must have the shape of logits, (8, 7), but got (8, 5).",
        ),
    ],
)
def test_loss_refuses_a_setting_out_of_range(
    loss: Callable[..., Tensor], settings: dict[str, Any], message: str, logits: Tensor, labels: Tensor
) -> None:
    with pytest.raises(ValueError) as caught:
        loss(logits, labels=labels, **settings)

    assert str(caught.value) == message


def test_top_score_difference_refuses_more_scores_than_classes(logits: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^top_k must be between 2 and the .* classes, 7, but got 8\.$"):
        top_score_difference(logits, 8)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_built_objective_is_the_loss_of_its_name(name: str, logits: Tensor, labels: Tensor) -> None:
    objective = build_objective(name, SETTINGS)

    assert torch.equal(objective(logits, labels), LOSSES[name](logits, labels))


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("tolerant", {"strictness": 0.6, "top_k": 4}),
        ("strict", {}),
        ("label-smoothing", {"smoothing": 0.2}),
        ("confidence-penalty", {"penalty": 0.3}),
    ],
)
def test_objective_settings_are_those_that_the_objective_uses(name: str, used: dict[str, float]) -> None:
    assert objective_settings(name, SETTINGS) == used


def test_objective_settings_hold_the_defaults_of_a_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*, penalty: float, margin: float = 0.5, **_: float) -> Loss:
        return partial(confidence_penalty_loss, penalty=penalty + margin)

    monkeypatch.setitem(OBJECTIVES, "own", build)

    assert objective_settings("own", SETTINGS) == {"penalty": 0.3, "margin": 0.5}
    assert objective_settings("own", SETTINGS | {"margin": 2}) == {"penalty": 0.3, "margin": 2}


def test_objective_that_is_not_known_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"^Unknown objective 'tolerent'; .* Did you mean 'tolerant'\?$"):
        build_objective("tolerent", SETTINGS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strictness": 1, "penalty": 1}, "needs top_k; set patriarch.options.top_k."),
        ({}, "needs strictness and top_k; set patriarch.options.strictness."),
    ],
)
def test_objective_without_a_setting_that_it_needs_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_objective("tolerant", given)

    assert str(caught.value) == f"The objective 'tolerant' {message}"


def test_objectives_are_those_that_a_recipe_may_name() -> None:
    from lineage.recipe import ObjectiveName

    assert set(OBJECTIVES) == set(get_args(ObjectiveName))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_soft_labels_is_the_mean_over_the_labels(name: str, logits: Tensor, labels: Tensor) -> None:
    loss, others = LOSSES[name], (labels + 3) % logits.shape[1]
    one_hot, other_hot = (torch.eye(logits.shape[1], dtype=logits.dtype)[each] for each in (labels, others))
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, labels))
    mixed = loss(logits, 0.75 * one_hot + 0.25 * other_hot)
    torch.testing.assert_close(mixed, 0.75 * loss(logits, labels) + 0.25 * loss(logits, others))
