import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from lineage.data.datasets import MemoryImages
from lineage.data.images import DataSpec
from lineage.errors import IntegrityError
from lineage.evaluation.membership import (
    LIRA,
    THRESHOLD,
    Flags,
    Floats,
    ShadowScores,
    attack_rates,
    audit_scores,
    lira_scores,
    membership_scores,
    score_images,
)
from lineage.training.devices import make_accelerator
from lineage.training.measurement import Subset

MANY = 100_000
MEMBERS = np.arange(2 * MANY) < MANY


def made_up(
    num_shadows: int, shift: float, num_images: int = 20_000, spread: float = 3.0
) -> tuple[Floats, Flags, ShadowScores]:
    """Scores around a mean of each image's own, ``shift`` higher where it trained; half of all are members.

    Pairs of shadows divide the members between them, and train on no other image.
    """
    draw = np.random.default_rng(1)
    members = np.arange(num_images) < num_images // 2
    first = draw.integers(2, size=(num_shadows // 2, num_images)).astype(bool)
    trained = np.stack([first, ~first], axis=1).reshape(num_shadows, num_images) & members
    means = draw.normal(0, spread, num_images)
    shadows = means + shift * trained + draw.normal(size=trained.shape)
    return means + shift * members + draw.normal(size=num_images), members, ShadowScores(shadows, trained)


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.5])
def test_rates_of_two_normals_are_those_in_closed_form(distance: float) -> None:
    scores = np.random.default_rng(0).normal(size=2 * MANY) + distance * MEMBERS
    rates = attack_rates(scores, MEMBERS)
    assert rates["auc"] == pytest.approx(norm.cdf(distance / math.sqrt(2)), abs=0.005)
    for name, rate in {"tpr_at_fpr_0.01": 0.01, "tpr_at_fpr_0.001": 0.001}.items():
        expected = norm.sf(norm.isf(rate) - distance)
        assert rates[name] == pytest.approx(expected, rel=0.1, abs=0.001), name


def test_rates_count_the_images_above_a_threshold() -> None:
    scores, members = np.array([5.0, 4, 3, 2, 1, 0]), np.array([True, True, False, True, False, False])
    assert attack_rates(scores, members) == {
        "auc": pytest.approx(8 / 9),
        "tpr_at_fpr_0.01": pytest.approx(2 / 3),
        "tpr_at_fpr_0.001": pytest.approx(2 / 3),
    }
    assert attack_rates(np.zeros(6), members) == {
        "auc": 0.5,
        "tpr_at_fpr_0.01": 0.0,
        "tpr_at_fpr_0.001": 0.0,
    }


def test_score_is_the_logarithm_of_the_odds_where_they_can_be_computed() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(50) % 7
    p = logits.softmax(1)[torch.arange(50), labels]
    torch.testing.assert_close(membership_scores(logits, labels), (p / (1 - p)).log())


def test_score_of_a_network_that_is_sure_is_exact() -> None:
    logits = torch.tensor([[300.0, -300.0, -300.0], [-300.0, 300.0, 299.0]])
    scores = membership_scores(logits, torch.tensor([0, 0]))
    expected = [600 - math.log(2), -600 - math.log1p(math.exp(-1))]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("num_shadows", [4, 16])
def test_lira_removes_what_differs_between_images(num_shadows: int) -> None:
    shift = 1.5
    found = audit_scores(*made_up(num_shadows, shift))
    mean_of_others = num_shadows // 2
    expected = norm.cdf(shift / math.sqrt(2 * (1 + 1 / mean_of_others)))
    assert found[LIRA]["auc"] == pytest.approx(expected, abs=0.01)
    assert found[THRESHOLD]["auc"] == pytest.approx(norm.cdf(shift / math.sqrt(2 * (1 + 9))), abs=0.01)


def test_lira_finds_nothing_where_nothing_is_told() -> None:
    found = audit_scores(*made_up(4, shift=0.0, num_images=2 * MANY))[LIRA]
    assert found["auc"] == pytest.approx(0.5, abs=0.005)
    assert found["tpr_at_fpr_0.01"] == pytest.approx(0.01, abs=0.002)
    assert found["tpr_at_fpr_0.001"] == pytest.approx(0.001, abs=0.0007)


def test_variance_of_each_image_is_its_own_from_64_shadows_on() -> None:
    # Half of the images are ten times as noisy: a pooled variance takes their noise for membership
    members = np.arange(1000) < 500
    noise = np.where(np.arange(1000) % 2, 10.0, 1.0)
    draw = np.random.default_rng(0)
    aucs = {}
    for num_shadows in (62, 64):
        first = draw.integers(2, size=(num_shadows // 2, 1000)).astype(bool)
        trained = np.stack([first, ~first], axis=1).reshape(num_shadows, 1000) & members
        shadows = ShadowScores(noise * (draw.normal(size=trained.shape) + 2 * trained), trained)
        scores = noise * (draw.normal(size=1000) + 2 * members)
        aucs[num_shadows] = audit_scores(scores, members, shadows)[LIRA]["auc"]
    assert aucs[64] == pytest.approx(norm.cdf(2 / math.sqrt(2)), abs=0.02)
    assert aucs[62] < aucs[64] - 0.05


def test_interval_holds_the_shadows_as_targets() -> None:
    scores, members, shadows = made_up(8, shift=1.5)
    found = audit_scores(scores, members, shadows)
    for attack in (THRESHOLD, LIRA):
        assert found[attack]["low_auc"] < found[attack]["high_auc"]
    # Each is attacked with the three other pairs, not with its own
    expected = norm.cdf(1.5 / math.sqrt(2 * (1 + 1 / 3)))
    assert found[LIRA]["low_auc"] - 0.01 < expected < found[LIRA]["high_auc"] + 0.01


def test_every_image_is_compared_with_one_shadow_of_each_pair_that_did_not_see_it() -> None:
    _, members, shadows = made_up(6, shift=0.0, num_images=400)
    out = shadows.out()
    assert np.array_equal(out[::2] ^ out[1::2], np.ones((3, 400), dtype=bool))
    assert not (out & shadows.trained).any()
    coins = out[:, ~members].mean(1)
    assert coins == pytest.approx(0.5, abs=0.15)


def test_lira_of_one_shadow_orders_by_the_difference() -> None:
    scores, others = np.array([0.0, 5.0, 3.0]), np.array([[0.0, 6.0, 1.0]])
    found = lira_scores(scores, others, np.ones((1, 3), dtype=bool))
    assert found.argsort().tolist() == [1, 0, 2]


TILES = DataSpec("tiles", tuple("abcdefghij"), None, (0.5,), (0.5,), (1, 8, 8), "d" * 64)


def tiles(num_images: int) -> tuple[MemoryImages, Subset]:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (num_images, 8, 8, 1), generator=draw, dtype=torch.uint8)
    images = MemoryImages(pixels, torch.randint(10, (num_images,), generator=draw))
    return images, Subset(images, torch.arange(num_images), TILES, batch_size=64)


def test_network_that_memorises_gives_its_images_away() -> None:
    images, subset = tiles(200)
    members = np.arange(200) < 100
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    pixels = (images.pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    accelerator = make_accelerator()
    before = attack_rates(score_images(accelerator, network, subset, "it"), members)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels[:100]), images.labels[:100]).backward()
        optimizer.step()
    after = attack_rates(score_images(accelerator, network, subset, "it"), members)
    assert before["auc"] < 0.65
    assert after["auc"] > 0.95


def test_images_are_scored_in_the_order_of_the_rows() -> None:
    images, _ = tiles(10)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    rows = torch.tensor([1, 4, 7])
    found = score_images(make_accelerator(), network, Subset(images, rows, TILES, batch_size=2), "it")
    pixels = (images.pixels[rows].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    expected = membership_scores(network(pixels).detach(), images.labels[rows])
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-5)


def test_logits_that_are_not_finite_are_refused() -> None:
    _, subset = tiles(4)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(network[1].bias, math.nan)
    with pytest.raises(IntegrityError, match="The logits of it must be finite, but those of 4 of 4 images"):
        score_images(make_accelerator(), network, subset, "it")
