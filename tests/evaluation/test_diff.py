from pathlib import Path

import pytest
import torch
from torch import nn

import lineage
from lineage.cli.diff import diff as command
from lineage.data.datasets import load_dataset
from lineage.errors import UsageError
from lineage.evaluation.diff import diff
from lineage.models.exported import ExportedNetwork, export
from lineage.models.networks import EXPORTED
from lineage.registry.family.adopted import register_adopted
from lineage.registry.flavor import LoadedModel


def test_difference_tells_settings_metrics_agreement_and_features(
    home: Path, tiny_settings: tuple[str, ...]
) -> None:
    first, second = lineage.grow("digits", overrides=tiny_settings, generations=1)[0].versions
    (hot,) = lineage.grow(teacher=first.uri, overrides=["student.temperature=4"])[0].versions
    found = diff(second.uri, hot.uri)
    assert found.recipe["student.temperature"] == (1.0, 4.0)
    assert set(found.recipe) <= {"student.temperature", "succession.generations"}
    assert found.metrics["test_accuracy"] == (second.metrics["test_accuracy"], hot.metrics["test_accuracy"])
    pixels = load_dataset("digits").test.pixels.permute(0, 3, 1, 2).float() / 255
    classes = [lineage.load(version.uri).logits(pixels).argmax(1) for version in (second, hot)]
    assert found.agreement == pytest.approx(torch.eq(*classes).double().mean().item(), abs=1 / len(pixels))
    assert found.cka is not None
    assert 0 < found.cka < 1


def test_version_is_like_itself(home: Path, tiny_settings: tuple[str, ...]) -> None:
    (only,) = lineage.grow("digits", overrides=tiny_settings, generations=0)[0].versions
    found = diff(only.uri, "models:/digits@best")
    assert found.recipe == {}
    assert found.agreement == 1
    assert found.cka == pytest.approx(1)


def test_ensemble_has_no_features_to_compare(home: Path, tiny_settings: tuple[str, ...]) -> None:
    trunk = lineage.grow("digits", overrides=tiny_settings, generations=1)[0].versions
    both = lineage.ensemble([trunk[1].uri], name="committee").version
    assert both is not None
    found = diff(trunk[0].uri, both.uri)
    assert found.cka is None
    assert 0 < found.agreement < 1


def test_program_without_a_linear_end_has_no_features_to_compare(
    home: Path, tiny_settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (own,) = lineage.grow("digits", overrides=tiny_settings, generations=0)[0].versions
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))
    program = ExportedNetwork(10, (1, 8, 8))
    program.read(export(network, (1, 8, 8)))
    model = LoadedModel(program, EXPORTED, {}, lineage.load(own.uri).spec)
    theirs = register_adopted("theirs", model, {}, {})
    found = diff(own.uri, theirs.uri)
    assert found.cka is None
    assert 0 <= found.agreement < 1
    capsys.readouterr()
    command(own.uri, theirs.uri)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Their features are not compared: an ensemble has none, nor has an adopted program that does not"
        " end in a linear layer."
    )


def test_difference_of_a_missing_version_is_told(home: Path) -> None:
    with pytest.raises(UsageError, match="A model URI must read"):
        diff("digits/1", "digits/2")
