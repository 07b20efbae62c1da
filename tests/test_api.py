import json
import os
import subprocess
import sys
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

import lineage
from lineage.data.datasets import MemoryImages, build_digits
from lineage.registry.family.family import Version

Settings = Sequence[str]


@pytest.fixture(scope="module")
def grown(module_home: object, tiny_settings: Settings) -> lineage.Lineage:
    """A tiny patriarch and its student."""
    (lines,) = lineage.grow("digits", generations=1, overrides=tiny_settings)
    return lines


class RecordingReporter:
    """A reporter that records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pulled(self, version: Version) -> None:
        self.calls.append(f"pulled {version.id}")

    def completed(self, version: Version) -> None:
        self.calls.append(f"completed {version.id}")

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        self.calls.append(f"generation {generation} of {epochs} epochs")
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.calls.append("epoch"))


def test_all_public_names_resolve() -> None:
    for name in lineage.__all__:
        assert getattr(lineage, name).__name__ in {name, "read_family"}


def test_public_names_are_listed_before_they_are_used() -> None:
    code = "import lineage; print(sorted({*lineage.__all__} - {*dir(lineage)}))"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout == "[]\n"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No lineage attribute growl"):
        lineage.growl  # noqa: B018 - looking it up is the test


def test_grow_gives_a_lineage_for_each_seed(grown: lineage.Lineage, tiny_settings: Settings) -> None:
    assert (grown.name, grown.seed, grown.num_trained) == ("digits", 0, 2)
    assert [version.id for version in grown.versions] == ["digits/1", "digits/2"]
    first, second = lineage.grow(
        "digits", name="seeds", generations=0, seeds=range(3, 5), overrides=tiny_settings
    )
    assert (first.seed, second.seed) == (3, 4)
    assert [line.versions[0].id for line in (first, second)] == ["seeds/1", "seeds/2"]


def test_grow_again_pulls_what_is_there(grown: lineage.Lineage, tiny_settings: Settings) -> None:
    (again,) = lineage.grow("digits", generations=1, overrides=tiny_settings)
    assert again.num_trained == 0
    assert [version.id for version in again.versions] == [version.id for version in grown.versions]


@pytest.mark.usefixtures("home")
def test_grow_calls_its_reporter(tiny_settings: Settings) -> None:
    first, second = RecordingReporter(), RecordingReporter()
    lineage.grow("digits", generations=0, overrides=tiny_settings, reporter=first)
    lineage.grow("digits", generations=0, overrides=tiny_settings, reporter=second)
    assert first.calls == ["generation 0 of 2 epochs", "epoch", "epoch", "completed digits/1"]
    assert second.calls == ["pulled digits/1"]


@pytest.mark.usefixtures("home")
def test_grow_gives_equal_weights_in_any_store(grown: lineage.Lineage, tiny_settings: Settings) -> None:
    (elsewhere,) = lineage.grow("digits", generations=1, overrides=tiny_settings)
    assert elsewhere.num_trained == 2
    assert [v.weights_sha256 for v in elsewhere.versions] == [v.weights_sha256 for v in grown.versions]


def test_errors_share_one_root() -> None:
    with pytest.raises(lineage.LineageError, match="There is no recipe 'digts'"):
        lineage.grow("digts")


@pytest.mark.usefixtures("grown")
def test_load_gives_a_network_with_all_that_it_takes_to_use_it() -> None:
    model = lineage.load("models:/digits@latest-generation")
    dataset = build_digits(None, False, 0)
    assert isinstance(model, lineage.LoadedModel)
    assert model.class_names == tuple("0123456789")
    assert (model.mean, model.std) == (dataset.spec.mean, dataset.spec.std)
    assert not model.network.training
    assert json.loads(model.recipe)["training"]["epochs"] == 2


@pytest.mark.usefixtures("grown")
def test_loaded_model_gives_the_logits_it_was_measured_by() -> None:
    model = lineage.load("models:/digits/2")
    test = build_digits(None, False, 0).test
    assert isinstance(test, MemoryImages)
    pixels = test.pixels.permute(0, 3, 1, 2) / 255
    logits = model.logits(pixels)
    assert logits.shape == (len(test), 10)
    with torch.inference_mode():
        mean, std = torch.tensor(model.mean).view(1, -1, 1, 1), torch.tensor(model.std).view(1, -1, 1, 1)
        torch.testing.assert_close(logits, model.network((pixels - mean) / std), rtol=0, atol=0)
    accuracy = (logits.argmax(1) == test.labels).double().mean().item()
    assert accuracy == lineage.tree("digits").versions[1].metrics["test_accuracy"]


def test_predictions_are_those_that_were_measured(grown: lineage.Lineage) -> None:
    model, student = lineage.load("models:/digits/2"), grown.versions[1]
    predicted = lineage.predictions(student.uri)
    test = build_digits(None, False, 0).test
    assert isinstance(test, MemoryImages)
    top = model.logits(test.pixels.permute(0, 3, 1, 2) / 255).softmax(1).topk(5)
    assert (predicted.labels == test.labels.numpy()).all()
    assert (predicted.classes == top.indices.numpy()).mean() > 0.999  # of nearly equal ones, either is first
    assert abs(predicted.probabilities - top.values.numpy()).max() < 1e-4
    assert predicted.accuracy == student.metrics["test_accuracy"]
    error = predicted.reliability.calibration_error
    assert error == pytest.approx(student.metrics["test_calibration_error"], abs=1e-6)
    assert predicted.histograms.keys() == {"top_probability", "top_score_difference", "secondary_mass"}


def test_figures_draw_what_is_registered_and_leave_the_style_alone(grown: lineage.Lineage) -> None:
    before = dict(plt.rcParams)
    axes = lineage.plot_metric("digits", "test_accuracy")
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == [0, 1]
    accuracies = [100 * version.metrics["test_accuracy"] for version in grown.versions]
    assert list(line.get_ydata()) == pytest.approx(accuracies)
    _, (left, right) = plt.subplots(1, 2)
    uris = [version.uri for version in grown.versions]
    assert lineage.plot_reliability(uris, ax=left) is left
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["digits/1", "digits/2"]
    assert lineage.plot_confusion(uris[1], ax=right) is right
    predicted = lineage.predictions(uris[1])
    shares = predicted.confusion / predicted.confusion.sum(axis=1, keepdims=True)
    np.fill_diagonal(shares, 0)
    np.testing.assert_allclose(right.images[0].get_array(), 100 * shares)
    assert [label.get_text() for label in right.get_yticklabels()] == list("0123456789")
    plt.close("all")
    assert dict(plt.rcParams) == before
    with pytest.raises(lineage.LineageError, match="must be of 1 to 6 versions, but got 7"):
        lineage.plot_reliability(uris[:1] * 7)


def test_values_print_on_one_short_line(grown: lineage.Lineage) -> None:
    patriarch = grown.versions[0]
    accuracy = f"{100 * patriarch.metrics['test_accuracy']:.2f} %"
    assert repr(patriarch) == f"<Version models:/digits/1: generation 0, test accuracy {accuracy}>"
    assert repr(grown) == "<Lineage digits, seed 0: models:/digits/1, models:/digits/2; 2 trained>"
    assert repr(lineage.tree("digits")) == "<Family digits: 2 versions>"
    assert repr(lineage.load(patriarch.uri)) == "<LoadedModel resnet8: 1×8×8 to 10 classes of digits>"
    predicted = repr(lineage.predictions(patriarch.uri))
    assert predicted == f"<Predictions of 360 images in 10 classes: accuracy {accuracy}>"
    assert repr(lineage.compare(["digits"])) == "<Comparison by test_accuracy of digits: 2 entries>"


@pytest.mark.usefixtures("grown")
def test_downloads_draw_no_bars(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR")
    lineage.load("models:/digits/1")
    lineage.predictions("models:/digits/1")
    assert capfd.readouterr().err == ""
    assert "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR" not in os.environ


def test_student_registers_how_alike_it_is_to_its_teacher(grown: lineage.Lineage) -> None:
    patriarch, student = grown.versions
    assert "test_cka" not in patriarch.metrics
    assert 0 <= student.metrics["test_explanation_similarity"] <= 1 + 1e-6
    assert student.metrics["test_cka"] == pytest.approx(
        lineage.diff(patriarch.uri, student.uri).cka, abs=1e-4
    )


def test_tree_gives_the_family(grown: lineage.Lineage) -> None:
    family = lineage.tree("digits")
    assert isinstance(family, lineage.Family)
    patriarch, student = family
    assert (patriarch.weights_sha256, student.weights_sha256) == tuple(
        version.weights_sha256 for version in grown.versions
    )
    assert family.roots == (patriarch,)
    assert family.students(patriarch) == (student,)


@pytest.mark.usefixtures("grown")
def test_evaluate_measures_what_was_recorded_to_the_last_bit() -> None:
    evaluation = lineage.evaluate("models:/digits/2")
    assert isinstance(evaluation, lineage.Evaluation)
    assert evaluation.version.id == "digits/2"
    assert "test_cross_entropy" in evaluation.metrics
    assert evaluation.metrics == evaluation.recorded
