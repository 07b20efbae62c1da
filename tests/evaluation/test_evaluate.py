from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import lineage
from lineage.errors import IntegrityError, RecipeError, UsageError
from lineage.evaluation.diff import diff
from lineage.evaluation.evaluate import read_measurement_settings
from lineage.exchange.adopt import Candidate, Normalisation, adopt
from lineage.models.networks import build_network


@pytest.fixture
def adopted(home: Path) -> lineage.Version:
    """An adopted network for digits that takes pixels between -1 and 1, with the metrics of its adoption."""
    return adopt(
        "adopted",
        Candidate(network="resnet8", weights=str(_weights(home, 10, (1, 8, 8)))),
        data="digits",
        normalisation=Normalisation((0.5,), (0.5,)),
        overrides=["network.width=4"],
        measured=True,
    ).version


def test_adopted_version_is_evaluated_as_it_was_measured(adopted: lineage.Version) -> None:
    found = lineage.evaluate(adopted.uri)
    assert found.metrics == found.recorded != {}


def test_adopted_version_is_evaluated_where_its_images_lie(home: Path) -> None:
    for part in ("train", "test"):
        _write_images(home / "first" / part)
    (home / "first").rename(home / "second")
    candidate = Candidate(network="resnet20", weights=str(_weights(home, 2, (3, 16, 16), "resnet20")))
    sizes = ["network.width=4", "data.image_size=16"]
    version = adopt("adopted", candidate, data="imagefolder", overrides=[*sizes, "data.root=second"]).version
    (home / "second").rename(home / "third")
    found = lineage.evaluate("models:/adopted/1", ["data.root=third"])
    assert 0 <= found.metrics["test_accuracy"] <= 1
    assert found.version == version
    _write_images(home / "third" / "test", 3)
    with pytest.raises(IntegrityError, match=r"models:/adopted/1 was grown on data with the digest"):
        lineage.evaluate("models:/adopted/1", ["data.root=third"])


def test_adopted_version_stands_in_an_ensemble_and_a_difference(
    adopted: lineage.Version, tiny_settings: tuple[str, ...]
) -> None:
    (grown,) = lineage.grow("digits", overrides=tiny_settings, generations=0)[0].versions
    found = lineage.ensemble([grown.uri, adopted.uri], name="committee")
    assert found.member_metrics[1]["accuracy"] == adopted.metrics["test_accuracy"]
    assert found.version is not None
    again = lineage.evaluate(found.version.uri)
    assert again.metrics["test_accuracy"] == pytest.approx(again.recorded["test_accuracy"], abs=1 / 360)
    between = diff(adopted.uri, grown.uri)
    assert between.cka is not None
    assert between.agreement == diff(grown.uri, adopted.uri).agreement


def test_adopted_version_that_names_no_images_asks_for_them(adopted: lineage.Version) -> None:
    model = lineage.load(adopted.uri)
    nameless = replace(model, spec=replace(model.spec, name="torchvision:resnet18/DEFAULT"))
    sentence = (
        r"models:/a/1 must be given its images, since it was adopted with 'torchvision:resnet18/DEFAULT'"
    )
    with pytest.raises(UsageError, match=sentence):
        read_measurement_settings("models:/a/1", nameless, ["data.root=here"])
    named = ["data.name=imagenet", "data.root=here"]
    settings = read_measurement_settings("models:/a/1", nameless, named)
    assert (settings.data.name, settings.data.root) == ("imagenet", "here")


@pytest.mark.parametrize("override", ["training.epochs=3", "data.flip=true", "network.width=8", "data={}"])
def test_setting_without_effect_on_a_measurement_is_refused(adopted: lineage.Version, override: str) -> None:
    measurements: list[Callable[[], Any]] = [
        lambda: lineage.evaluate(adopted.uri, [override]),
        lambda: lineage.ensemble([adopted.uri], overrides=[override]),
        lambda: diff(adopted.uri, adopted.uri, [override]),
    ]
    for measure in measurements:
        with pytest.raises(UsageError, match="--set must give a setting that a measurement uses") as refusal:
            measure()
        assert f"but got '{override}'; leave it out." in str(refusal.value)


def test_setting_with_effect_on_a_measurement_is_used(adopted: lineage.Version) -> None:
    found = lineage.evaluate(adopted.uri, ["patriarch.top_k=3", "training.batch_size=64"])
    name = "test_top_score_difference"
    assert found.metrics[name] != adopted.metrics[name]
    with pytest.raises(UsageError, match=r"but got 'patriarch.top_k=3'; leave it out"):
        diff(adopted.uri, adopted.uri, ["patriarch.top_k=3"])


def test_unknown_setting_of_a_measurement_is_named_with_the_nearest(adopted: lineage.Version) -> None:
    with pytest.raises(RecipeError, match=r"Unknown recipe key 'data.rot'. Did you mean 'root'\?"):
        lineage.evaluate(adopted.uri, ["data.rot=x"])


def _weights(
    folder: Path, num_classes: int, input_shape: tuple[int, int, int], network: str = "resnet8"
) -> Path:
    torch.manual_seed(0)
    state = build_network(network, num_classes, input_shape, {"width": 4}).state_dict()
    save_file(state, folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


def _write_images(part: Path, count: int = 2) -> None:
    for name, grey in (("dark", 20), ("light", 220)):
        (part / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("RGB", (16, 16), (grey + index,) * 3).save(part / name / f"{index}.png")
