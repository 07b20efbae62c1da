import copy
from collections.abc import Callable
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineage.recipe.student import TermName
from lineage.training.explanation import Explanation, explain
from lineage.training.maps import Features
from lineage.training.prior import Prior
from lineage.training.taught import TaughtNetwork, Terms
from lineage.training.terms import (
    TERMS,
    Hint,
    attention_loss,
    build_term,
    compares_samples,
    explains,
    relation_loss,
)

Array = NDArray[np.float64]

SHAPE, TEACHER_SHAPE = (3, 4, 4), (5, 2, 2)


def maps(size: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Maps of a student and of a teacher, which is wider and smaller."""
    generator = torch.Generator().manual_seed(seed)
    own, theirs = (
        torch.randn(size, *shape, generator=generator, dtype=torch.float64)
        for shape in (SHAPE, TEACHER_SHAPE)
    )
    return own, theirs


def head(channels: int) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        return nn.Linear(channels, 6).double().requires_grad_()


TEACHER_HEAD = head(TEACHER_SHAPE[0]).requires_grad_(False)


def term(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build_term(name, SHAPE, TEACHER_SHAPE, head=head(SHAPE[0])).double()


def evaluate(module: nn.Module, own: Tensor, theirs: Tensor) -> Tensor:
    """The value of a term for a teacher with ``TEACHER_HEAD``, with the same random positions every time."""
    head = copy.deepcopy(TEACHER_HEAD).to(theirs)
    logits = head(theirs.detach().mean((2, 3)))
    if isinstance(module, Explanation):
        theirs = explain(Features(theirs, logits), logits.argmax(1), head)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        value: Tensor = module(Features(own, logits), Features(theirs, logits))
    return value


def pooled(values: Array) -> Array:
    """Means of blocks of 2×2 positions."""
    batch, channels, height, width = values.shape
    return values.reshape(batch, channels, height // 2, 2, width // 2, 2).mean((3, 5))


def numpy_hint(own: Array, theirs: Array) -> float:
    weight, bias = (each.detach().numpy() for each in term("hint").parameters())
    adapted = np.einsum("ed,bdhw->behw", weight[:, :, 0, 0], own) + bias[:, None, None]
    return float(((pooled(adapted) - theirs) ** 2).mean())


def numpy_attention(own: Array, theirs: Array) -> float:
    attention = [(each**2).mean(1).reshape(len(each), -1) for each in (pooled(own), theirs)]
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in attention]
    return float(((attention[0] / lengths[0] - attention[1] / lengths[1]) ** 2).mean())


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def numpy_relation(own: Array, theirs: Array) -> float:
    rows = [each.mean((2, 3)) for each in (own, theirs)]
    size = len(own)
    if size == 1:
        return 0.0
    distances = [np.array([[np.linalg.norm(a - b) for b in each] for a in each]) for each in rows]
    own_distances, their_distances = (each / each[each > 0].mean() for each in distances)
    of_pairs = np.mean([huber(d) for d in (own_distances - their_distances).flat])

    def cosine(each: Array, i: int, j: int, k: int) -> float:
        first, second = each[i] - each[j], each[i] - each[k]
        lengths = np.linalg.norm(first) * np.linalg.norm(second)
        return float(first @ second / lengths) if lengths else 0.0

    triples = product(range(size), repeat=3)
    of_angles = np.mean([huber(cosine(rows[0], *t) - cosine(rows[1], *t)) for t in triples])
    return float(25 * of_pairs + 50 * of_angles)


def numpy_explanation(own: Array, theirs: Array) -> float:
    module = term("explanation")
    weight = module._head[0].weight.detach().numpy()
    teacher_weight, teacher_bias = (each.numpy() for each in TEACHER_HEAD.parameters())
    similarities = []
    for maps, teacher_maps in zip(own, theirs, strict=True):
        top = np.argmax(teacher_weight @ teacher_maps.mean((1, 2)) + teacher_bias)
        explained = np.maximum(np.tensordot(weight[top], maps, 1), 0)
        small = pooled(explained[None, None])[0, 0].ravel()
        expected = np.maximum(np.tensordot(teacher_weight[top], teacher_maps, 1), 0).ravel()
        length = np.linalg.norm(small) * np.linalg.norm(expected)
        similarities.append(small @ expected / length if length else 0.0)
    return float(1 - np.mean(similarities))


def numpy_convolution(maps: Array, layer: nn.Conv2d) -> Array:
    weight, bias = (each.detach().numpy() for each in layer.parameters())
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = (range(0, size, layer.stride[0]) for size in maps.shape[2:])
    found = [
        [np.tensordot(padded[:, :, i : i + 3, j : j + 3], weight, ((1, 2, 3), (1, 2, 3))) for j in columns]
        for i in rows
    ]
    return np.array(found).transpose(2, 3, 0, 1) + bias[:, None, None]


def numpy_cka(x: Array, y: Array) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.sum((y.T @ x) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))


def numpy_prior(own: Array, theirs: Array) -> float:
    if len(own) == 1:
        return 0.0
    module = term("prior")
    weight, bias = (each.detach().numpy() for each in module.adapter.parameters())
    adapted = pooled(np.einsum("ed,bdhw->behw", weight[:, :, 0, 0], own) + bias[:, None, None])
    drawn = torch.rand(len(own), 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    share = 1 - numpy_cka(own.mean((2, 3)), theirs.mean((2, 3)))
    given = drawn.numpy() < share
    assert 0 < given.sum() < given.size
    code = np.maximum(numpy_convolution(np.where(given, theirs, adapted), module.encoder), 0)
    enlarged = code.repeat(2, axis=2).repeat(2, axis=3)
    return float(((numpy_convolution(enlarged, module.decoder) - theirs) ** 2).mean())


FORMULAS: dict[str, Callable[[Array, Array], float]] = {
    "hint": numpy_hint,
    "attention": numpy_attention,
    "relation": numpy_relation,
    "explanation": numpy_explanation,
    "prior": numpy_prior,
}


@pytest.mark.parametrize("size", [5, 1])
@pytest.mark.parametrize("name", TERMS)
def test_term_equals_an_independent_formula(name: str, size: int) -> None:
    own, theirs = maps(size)

    value = evaluate(term(name), own, theirs)

    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(FORMULAS[name](own.numpy(), theirs.numpy()), rel=1e-9)


@pytest.mark.parametrize("name", TERMS)
def test_term_has_the_gradient_of_its_formula_and_none_for_the_teacher(name: str) -> None:
    own, theirs = maps(3)
    module = term(name)

    assert torch.autograd.gradcheck(lambda given: evaluate(module, given, theirs), own.requires_grad_())
    value = evaluate(module, own, theirs.requires_grad_())
    assert torch.autograd.grad(value, (own, theirs), allow_unused=True)[1] is None


@pytest.mark.parametrize("kind", ["zero", "large", "one"])
@pytest.mark.parametrize("name", TERMS)
def test_term_and_its_gradient_stay_finite_at_the_limits(name: str, kind: str) -> None:
    own, theirs = (each.float() for each in maps(1 if kind == "one" else 4))
    scale = {"zero": 0, "large": 1e4, "one": 1}[kind]
    own = (own * scale).requires_grad_()

    value = evaluate(term(name).float(), own, theirs * scale)
    (gradient,) = torch.autograd.grad(value, own)

    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", TERMS)
def test_term_never_waits_for_the_device(name: str) -> None:
    """A tensor on the meta device has no values to wait for: reading one raises."""
    own = torch.empty(4, *SHAPE, device="meta", requires_grad=True)
    module = term(name).float().to("meta")
    for head in getattr(module, "_head", ()):  # which moves with the student
        head.to("meta")
    value = evaluate(module, own, torch.empty(4, *TEACHER_SHAPE, device="meta"))
    assert torch.autograd.grad(value, own)[0].shape == own.shape


def test_term_of_equal_maps_is_zero() -> None:
    own, _ = maps()
    assert attention_loss(own, own).item() == relation_loss(own, own).item() == 0
    hint = Hint(SHAPE, SHAPE).double()
    with torch.no_grad():
        hint.adapter.weight.copy_(torch.eye(3)[:, :, None, None])
        hint.adapter.bias.zero_()
    assert hint(Features(own, own), Features(own, own)).item() == 0


def test_relation_does_not_depend_on_the_scale_of_distances_and_rotation() -> None:
    own, _ = maps()
    assert relation_loss(own, 3 * own.flip(1) + 1).item() == pytest.approx(0, abs=1e-12)


def test_explanation_is_that_of_gradcam_by_autograd() -> None:
    """The closed form needs no gradient of a logit; it differs by a factor, the number of positions."""
    own, _ = maps()
    layer, classes = head(SHAPE[0]), torch.tensor([0, 5, 2, 2, 1])
    leaf = own.requires_grad_()
    features = Features(leaf, layer(leaf.mean((2, 3))))

    closed, differentiated = (explain(features, classes, each) for each in (layer, None))

    assert closed.shape == (5, 1, 4, 4)
    assert closed.amax() > 0
    torch.testing.assert_close(16 * differentiated, closed)


def test_differentiated_term_and_its_gradients_are_those_of_the_closed_form() -> None:
    own, theirs = maps()
    found = []
    for closed in (True, False):
        layer, leaf = head(SHAPE[0]), own.clone().requires_grad_()
        logits = TEACHER_HEAD(theirs.mean((2, 3)))
        teacher = Features(explain(Features(theirs, logits), logits.argmax(1), TEACHER_HEAD), logits)
        module = Explanation(layer if closed else None)
        value = module(Features(leaf, layer(leaf.mean((2, 3)))), teacher)
        found.append((value, *torch.autograd.grad(value, (leaf, layer.weight))))
    assert all(each.abs().max() > 0 for each in found[0])
    torch.testing.assert_close(found[0], found[1])


def test_explanation_teaches_the_classifier_as_well() -> None:
    own, theirs = maps()
    module = term("explanation")
    evaluate(module, own.requires_grad_(), theirs).backward()
    assert module._head[0].weight.grad.abs().max() > 0
    assert not list(module.parameters())
    assert not module.state_dict()


def test_prior_tells_a_student_nothing_that_equals_its_teacher_up_to_rotation() -> None:
    _, theirs = maps()
    module = Prior(TEACHER_SHAPE, TEACHER_SHAPE, gather=lambda rows: rows).double()
    adapted = module.adapter(theirs.flip(1))

    value = evaluate(module, theirs.flip(1), theirs)

    assert value.item() == pytest.approx(((module.complete(adapted) - theirs) ** 2).mean().item(), rel=1e-9)


def test_prior_compares_the_samples_of_all_processes() -> None:
    own, theirs = maps(1)
    others = torch.randn(4, 5, dtype=torch.float64)
    module = Prior(SHAPE, TEACHER_SHAPE, lambda rows: torch.cat([rows, others[:, : rows.shape[1]]])).double()
    assert evaluate(module, own, theirs).item() > 0


def test_terms_are_those_that_a_recipe_may_name() -> None:
    assert set(TERMS) == set(get_args(TermName))
    assert [name for name in TERMS if compares_samples(name)] == ["relation", "prior"]
    assert [name for name in TERMS if explains(name)] == ["explanation"]


class Trunk(nn.Module):
    """A student of one stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Conv2d(2, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.stage(images).mean((2, 3))


def test_taught_network_adds_weighted_terms_in_full_precision_and_keeps_weights_apart() -> None:
    torch.manual_seed(0)
    student = Trunk()
    modules = [build_term(name, SHAPE, TEACHER_SHAPE) for name in ("hint", "attention")]
    terms = Terms(modules, [2.0, 100.0], ["stage"] * 2)
    network = TaughtNetwork(student, terms)
    images = torch.randn(4, 2, 4, 4)
    theirs = maps(4)[1].float()

    with torch.autocast("cpu", torch.bfloat16):
        logits, total = network(images, [theirs.bfloat16(), theirs], torch.zeros(4, 3))
        own = student.stage(images)

    hint = terms.terms[0]
    assert own.dtype == torch.bfloat16
    assert torch.equal(logits, own.mean((2, 3)))
    seen = (Features(each.float(), logits) for each in (own, theirs.bfloat16()))
    expected = 2 * hint(*seen) + 100 * attention_loss(own.float(), theirs)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)
    found = TaughtNetwork.weights_of_student(network.state_dict())
    assert found.keys() == student.state_dict().keys()
    assert all(
        found[name] is not None and torch.equal(found[name], value)
        for name, value in student.state_dict().items()
    )
    assert {name for name in network.state_dict() if "adapter" in name} == {
        "terms.terms.0.adapter.weight",
        "terms.terms.0.adapter.bias",
    }


@pytest.mark.parametrize("name", ["attention", "relation"])
def test_term_equals_torchdistills(name: str) -> None:
    reason = "torchdistill comes with the benchmarks: pip install --group bench"
    others = pytest.importorskip("torchdistill.losses.mid_level", reason=reason)
    own, theirs = (each.float() for each in maps(8))
    if name == "attention":
        own = nn.functional.adaptive_avg_pool2d(own, 2)
        place = {"io": "output", "path": "x"}
        pairs = {"stage": {"student": place, "teacher": place, "weight": 1}}
        loss = others.ATLoss(at_pairs=pairs, mode="code")
    else:
        loss = others.RKDLoss("x", "x", dist_factor=25.0, angle_factor=50.0, reduction="mean")
    given = [each if name == "attention" else each.mean((2, 3)) for each in (own, theirs)]
    expected = loss(*({"x": {"output": each}} for each in given))
    assert evaluate(term(name).float(), own, theirs).item() == pytest.approx(float(expected), rel=1e-6)
