from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import pearsonr
from torch import Tensor
from torch.nn.functional import cross_entropy

from lineage.errors import RecipeError
from lineage.recipe import DistillationName
from lineage.training.distillation import (
    DISTILLATIONS,
    Distillation,
    decoupled_divergence,
    kl_divergence,
    standardised,
)
from lineage.training.soft_target_format import SoftTargetFormat
from lineage.training.student_loss import (
    StudentLoss,
    build_student_loss,
    distillation_options,
    require_working,
    uses,
)

Array = NDArray[np.float64]

TEMPERATURE = 4.0
SCORES = 3 * np.random.default_rng(0).standard_normal((8, 7))
TEACHER_SCORES = 3 * np.random.default_rng(1).standard_normal((8, 7))
LABELS = np.random.default_rng(2).integers(0, 7, 8)


def numpy_kl(logits: Array, teacher: Array, labels: NDArray[np.int64]) -> float:
    p, q = softmax(teacher / TEMPERATURE, axis=1), softmax(logits / TEMPERATURE, axis=1)
    return float((p * np.log(p / q)).sum(axis=1).mean())


def numpy_dkd(logits: Array, teacher: Array, labels: NDArray[np.int64]) -> float:
    values = []
    for own, theirs, label in zip(logits, teacher, labels, strict=True):
        p, q = (softmax(scores / TEMPERATURE)[label] for scores in (theirs, own))
        target = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        rest = [softmax(np.delete(scores, label) / TEMPERATURE) for scores in (theirs, own)]
        values.append(target + 8 * (rest[0] * np.log(rest[0] / rest[1])).sum())
    return float(np.mean(values))


def numpy_dist(logits: Array, teacher: Array, labels: NDArray[np.int64]) -> float:
    p, q = softmax(teacher / TEMPERATURE, axis=1), softmax(logits / TEMPERATURE, axis=1)
    within = np.mean([1 - pearsonr(own, theirs)[0] for own, theirs in zip(q, p, strict=True)])
    if len(p) == 1:
        return float(2 * within)
    return float(
        2 * within + 2 * np.mean([1 - pearsonr(own, theirs)[0] for own, theirs in zip(q.T, p.T, strict=True)])
    )


FORMULAS: dict[str, Callable[[Array, Array, NDArray[np.int64]], float]] = {
    "kl": numpy_kl,
    "dkd": numpy_dkd,
    "dist": numpy_dist,
}


def student_loss(name: str, **changes: Any) -> StudentLoss:
    """The loss ``name``, alone and at its defaults unless ``changes`` say otherwise."""
    settings = {"label_weight": 0.0, "loss_weight": 1.0, "temperature": TEMPERATURE, "options": {}}
    return build_student_loss(name, **settings | changes)


def numpy_standardised(logits: Array) -> Array:
    centred: Array = logits - logits.mean(axis=1, keepdims=True)
    return centred / (logits.std(axis=1, ddof=1, keepdims=True) + 1e-7)


def tensors(size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and the teacher's logits of ``size`` samples, in the order of a ``StudentLoss``."""
    logits, labels, teacher = (torch.from_numpy(each[:size]) for each in (SCORES, LABELS, TEACHER_SCORES))
    return logits.clone(), labels, teacher.clone()


@pytest.mark.parametrize("size", [8, 1])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distillation_equals_an_independent_formula(name: str, standardise: bool, size: int) -> None:
    logits, labels, teacher = tensors(size)

    value = student_loss(name, standardise=standardise)(logits, labels, teacher)

    own, theirs = SCORES[:size], TEACHER_SCORES[:size]
    if standardise:
        own, theirs = numpy_standardised(own), numpy_standardised(theirs)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(16 * FORMULAS[name](own, theirs, LABELS[:size]), rel=1e-9)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distillation_has_the_gradient_of_its_formula_and_none_for_the_teacher(name: str) -> None:
    logits, labels, teacher = tensors()

    loss = student_loss(name, standardise=True, label_weight=0.3)
    assert torch.autograd.gradcheck(lambda own: loss(own, labels, teacher), logits.requires_grad_())

    value = loss(logits, labels, teacher.requires_grad_())
    assert torch.autograd.grad(value, (logits, teacher), allow_unused=True)[1] is None


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distillation_upcasts_half_precision_logits(name: str) -> None:
    logits, labels, teacher = tensors()
    rounded = logits.bfloat16().requires_grad_()

    value = student_loss(name)(rounded, labels, teacher.bfloat16())
    (gradient,) = torch.autograd.grad(value, rounded)

    arrays = (rounded.detach().double().numpy(), teacher.bfloat16().double().numpy())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(16 * FORMULAS[name](*arrays, LABELS), rel=1e-4)
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("scale", [1e3, -1e3, 0])
@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distillation_stays_finite_on_extreme_logits(name: str, scale: float, standardise: bool) -> None:
    logits = torch.zeros(8, 7)
    logits[:, 3] = scale
    teacher = logits.roll(1, dims=1)
    logits.requires_grad_()

    value = student_loss(name, standardise=standardise, temperature=1.0)(logits, tensors()[1], teacher)
    (gradient,) = torch.autograd.grad(value, logits)

    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distillation_never_waits_for_the_device(name: str) -> None:
    """A tensor on the meta device has no values to wait for: reading one raises."""
    logits = torch.empty(8, 7, device="meta", requires_grad=True)
    labels = torch.empty(8, dtype=torch.int64, device="meta")

    loss = student_loss(name, standardise=True, label_weight=0.5)
    value = loss(logits, labels, torch.empty(8, 7, device="meta"))

    assert torch.autograd.grad(value, logits)[0].shape == (8, 7)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_student_that_equals_its_teacher_has_nothing_to_learn_from_it(name: str) -> None:
    _, labels, teacher = tensors()
    logits = teacher.clone().requires_grad_()

    value = student_loss(name)(logits, labels, teacher)

    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, logits)[0].abs().max().item() == pytest.approx(0, abs=1e-12)


def test_decoupled_divergence_is_kl_where_the_rest_has_its_own_weight() -> None:
    """KL = KL about the label + (1 - p_t) · KL among the rest (Zhao et al., equation 6)."""
    logits, labels, teacher = tensors(1)
    rest = 1 - (teacher / TEMPERATURE).softmax(1)[0, labels].item()

    value = decoupled_divergence(logits, teacher, labels, TEMPERATURE, alpha=1, beta=rest)

    expected = kl_divergence(logits, teacher, labels, TEMPERATURE)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_decoupled_divergence_of_two_classes_has_no_rest_to_compare() -> None:
    logits, _, teacher = (values[:, :2] if values.ndim == 2 else values for values in tensors())
    labels = torch.arange(8) % 2

    values = [decoupled_divergence(logits, teacher, labels, TEMPERATURE, beta=beta) for beta in (0, 8)]

    assert values[0] == values[1] > 0


def test_soft_labels_are_refused_by_dkd_alone() -> None:
    logits, _, teacher = tensors()
    labels = torch.full((8, 7), 1 / 7, dtype=torch.float64)
    for name in {*DISTILLATIONS} - {"dkd"}:
        hard = cross_entropy(logits, labels)
        loss, alone = (student_loss(name, label_weight=weight) for weight in (0.5, 0.0))
        assert loss(logits, labels, teacher) == pytest.approx(0.5 * hard + alone(logits, labels, teacher))
    with pytest.raises(ValueError, match=r"must be class indices .*, but are probabilities \(8, 7\)"):
        student_loss("dkd")(logits, labels, teacher)


def test_standardised_logits_do_not_depend_on_scale_and_shift() -> None:
    logits, _, _ = tensors()
    found = standardised(logits)
    assert torch.allclose(found, standardised(5 * logits + 3), atol=1e-6)
    assert torch.allclose(found.std(1), torch.ones(8, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_loss_adds_labels_and_teacher_with_weights_of_their_own(name: str) -> None:
    logits, labels, teacher = tensors()
    hard = cross_entropy(logits, labels)
    taught = student_loss(name)(logits, labels, teacher)
    both = student_loss(name, label_weight=1.0, loss_weight=3.0)
    assert both(logits, labels, teacher) == pytest.approx(hard + 3 * taught)
    assert both(logits, labels, teacher, 0.25) == pytest.approx(hard + 0.75 * taught)
    alone = student_loss(name, label_weight=1.0, loss_weight=0.0)
    assert torch.equal(alone(logits, labels, None), hard)


@pytest.mark.parametrize("top", [None, 3])
@pytest.mark.parametrize("name", DISTILLATIONS)
def test_stored_soft_targets_serve_every_distillation_loss(name: str, top: int | None) -> None:
    logits, labels, teacher = (each.float() if each.is_floating_point() else each for each in tensors())
    form = SoftTargetFormat(7, top, None if top is None else TEMPERATURE)
    encoded = form.encode(teacher)
    stored = form.decode([encoded[array] for array in form.arrays])

    loss = student_loss(name, standardise=top is None)

    tolerance = 2e-3 if top is None else 0.5  # the rest is spread evenly
    live = loss(logits, labels, teacher)
    assert loss(logits, labels, stored).item() == pytest.approx(live.item(), rel=tolerance)


def test_distillations_are_those_that_a_recipe_may_name() -> None:
    assert set(DISTILLATIONS) == set(get_args(DistillationName))


def test_losses_that_compare_samples_are_known_by_their_signature() -> None:
    assert [name for name in DISTILLATIONS if uses(name, "gather")] == ["dist"]


def test_options_have_the_types_and_defaults_of_the_signature() -> None:
    found = distillation_options("dkd", {"beta": 2})
    assert found == {"alpha": 1.0, "beta": 2.0}
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kl", {"beta": 2}, "The distillation loss 'kl' takes no options, but student.options has 'beta'."),
        (
            "dkd",
            {"betta": 2},
            "The distillation loss 'dkd' takes the options alpha, beta, but student.options has 'betta'."
            " Did you mean 'beta'?",
        ),
        ("dist", {"gamma": "x"}, "student.options.gamma must be a number, but got 'x'."),
        ("dist", {"gamma": True}, "student.options.gamma must be a number, but got True."),
        (
            "dist",
            {"gamma": -1},
            "student.loss 'dist' must be built from its options, {'beta': 2.0, 'gamma': -1.0}, but its"
            " builder fails: gamma must be at least 0, but got -1.0; correct [student.options].",
        ),
    ],
)
def test_option_that_a_loss_does_not_take_is_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        student_loss(name, options=options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (lambda logits, _teacher, _labels: logits.sum(1), r"returns a tensor \(2,\)"),
        (lambda _logits, teacher, _labels: teacher.sum(), r"returns a tensor \(\)"),
        (lambda _logits, _teacher, _labels: 3.0, "returns a float"),
        (lambda logits, _teacher, _labels: logits[9], "fails for two samples of 5 classes: index 9 is out"),
    ],
)
def test_loss_that_does_not_work_is_refused(own: Distillation, problem: str) -> None:
    loss = StudentLoss("own:loss", 0.0, 1.0, 1.0, False, own)
    with pytest.raises(RecipeError, match=f"'own:loss' must return a scalar .* but {problem}"):
        require_working(loss, 5)


@pytest.mark.parametrize("name", ["kl", "dist", "standardised kl"])
def test_distillation_equals_torchdistills(name: str) -> None:
    reason = "torchdistill comes with the benchmarks: pip install --group bench"
    others = pytest.importorskip("torchdistill.losses.mid_level", reason=reason)
    paths = {f"{who}_module_{part}": "x" for who in ("student", "teacher") for part in ("path", "io")}
    standard = {"temperature": TEMPERATURE, "alpha": 0.3, "beta": 0.7}
    theirs = {
        "kl": partial(others.KDLoss, **standard),
        "dist": partial(others.DISTLoss, beta=2.0, gamma=2.0, tau=TEMPERATURE),
        "standardised kl": partial(others.LogitStdKDLoss, **standard),
    }[name](**paths)
    logits, labels, teacher = tensors()

    weights = {"label_weight": 0.0} if name == "dist" else {"label_weight": 0.3, "loss_weight": 0.7}
    ours = student_loss(name.split()[-1], standardise=" " in name, **weights)

    expected = theirs({"x": {"x": logits}}, {"x": {"x": teacher}}, labels)
    assert ours(logits, labels, teacher).item() == pytest.approx(expected.item(), rel=1e-6)
