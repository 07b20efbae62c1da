from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

import lineage
from lineage.data.datasets import load_dataset
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.registry.care.doctor import examine


@pytest.fixture
def trunk(home: Path, tiny_settings: tuple[str, ...]) -> tuple[lineage.Version, ...]:
    """A patriarch and two students in ``home``."""
    (grown,) = lineage.grow("digits", overrides=[*tiny_settings, "training.epochs=1"], generations=2)
    return grown.versions


Trunk = tuple[lineage.Version, ...]


def member_logits(trunk: Trunk) -> tuple[list[torch.Tensor], torch.Tensor]:
    test = load_dataset("digits").test
    pixels = test.pixels.permute(0, 3, 1, 2).float() / 255
    return [lineage.load(version.uri).logits(pixels) for version in trunk], test.labels


def test_prefixes_equal_an_independent_computation(trunk: Trunk) -> None:
    found = lineage.ensemble([trunk[2].uri])
    assert [member.id for member in found.members] == [version.id for version in trunk]
    logits, labels = member_logits(trunk)
    numbers = [np.exp(x.double().numpy()) for x in logits]
    probabilities = [x / x.sum(1, keepdims=True) for x in numbers]
    for size in (1, 2, 3):
        mean = np.mean(probabilities[:size], axis=0)
        accuracy = np.mean(mean.argmax(1) == labels.numpy())
        assert found.prefix_metrics[size - 1]["accuracy"] == accuracy
        cross_entropy = -np.log(mean[np.arange(len(labels)), labels]).mean()
        assert found.prefix_metrics[size - 1]["cross_entropy"] == pytest.approx(cross_entropy, abs=1e-6)
    for version, alone in zip(trunk, found.member_metrics, strict=True):
        assert alone["accuracy"] == version.metrics["test_accuracy"]


def test_weights_move_the_mean(trunk: Trunk) -> None:
    found = lineage.ensemble([trunk[0].uri, trunk[2].uri], weights=[1, 3])
    assert found.weights == (0.25, 0.75)
    logits, labels = member_logits(trunk)
    mean = 0.25 * logits[0].double().softmax(1) + 0.75 * logits[2].double().softmax(1)
    assert found.prefix_metrics[1]["accuracy"] == (mean.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("copy", [False, True])
def test_registered_ensemble_loads_serves_and_teaches(trunk: Trunk, copy: bool) -> None:
    found = lineage.ensemble([trunk[1].uri], name="digits", copy=copy)
    version = found.version
    assert version is not None
    assert (version.kind, version.generation, version.teacher) == ("ensemble", 1, None)
    assert [member.id for member in version.members] == ["digits/1", "digits/2"]
    assert [member.weights_sha256 for member in version.members] == [v.weights_sha256 for v in trunk[:2]]
    assert lineage.ensemble([trunk[1].uri], name="digits", copy=copy).version == version
    logits, _ = member_logits(trunk[:2])
    expected = (logits[0].softmax(1) + logits[1].softmax(1)) / 2
    pixels = load_dataset("digits").test.pixels.permute(0, 3, 1, 2).float() / 255
    served = mlflow.pyfunc.load_model(version.uri).predict(pixels.numpy())
    np.testing.assert_allclose(np.exp(served), expected.numpy(), atol=1e-6)
    predicted = lineage.predictions(version.uri)
    assert predicted.accuracy == version.metrics["test_accuracy"]
    np.testing.assert_allclose(predicted.probabilities, expected.topk(5).values.numpy(), atol=1e-4)
    (student,) = lineage.grow(teacher=version.uri)[0].versions
    assert (student.generation, student.teacher) == (2, version.id)
    family = lineage.tree("digits")
    assert [v.id for v in family.descendants(trunk[0])] == ["digits/2", version.id, "digits/3", student.id]


def test_member_that_was_altered_is_noticed(trunk: Trunk) -> None:
    version = lineage.ensemble([trunk[1].uri], name="committee").version
    assert version is not None
    (weights,) = [
        path for path in Path("mlruns").rglob("weights.safetensors") if trunk[0].model_id in str(path)
    ]
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    with pytest.raises(IntegrityError, match="models:/digits/1 must have the SHA-256"):
        lineage.load(version.uri)


def test_copied_members_outlive_their_versions(trunk: Trunk) -> None:
    version = lineage.ensemble([trunk[1].uri], name="committee", copy=True).version
    linked = lineage.ensemble([trunk[1].uri], name="committee").version
    assert version is not None
    assert linked is not None
    for path in Path("mlruns/digits").rglob("weights.safetensors"):
        path.unlink()
    assert len(lineage.load(version.uri).members) == 2
    with pytest.raises(NotFoundError, match="weights of models:/digits/1 must lie in"):
        lineage.load(linked.uri)


def test_ensemble_that_cannot_be_registered_leaves_a_failed_run(trunk: Trunk) -> None:
    lead = MlflowClient().set_model_version_tag
    for tag, value in (("teacher", trunk[2].id), ("teacher_model_id", trunk[2].model_id)):
        lead("digits", "1", f"lineage.{tag}", value)  # a circle
    with pytest.raises(IntegrityError, match="must not descend from itself"):
        lineage.ensemble([version.uri for version in trunk], name="committee")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("committee")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    client.create_registered_model("committee")
    (torn, _) = examine("committee", lambda _key: False).findings
    assert (torn.check, torn.subject) == ("half-finished", f"run {run.info.run_id}")
    assert "run the same 'lineage ensemble --register' again" in torn.remedy


def test_members_and_weights_must_fit(trunk: Trunk) -> None:
    with pytest.raises(UsageError, match=r"--weights must be 3 positive numbers.* \[1, 2\]"):
        lineage.ensemble([trunk[2].uri], weights=[1, 2])
    with pytest.raises(UsageError, match=r"from 0 to 2, the number of teachers .* but got 5"):
        lineage.ensemble([trunk[2].uri], ancestors=5)
    with pytest.raises(UsageError, match="--ancestors must be given with one version, but got 2"):
        lineage.ensemble([trunk[2].uri, trunk[1].uri], ancestors=1)
    with pytest.raises(UsageError, match="--copy must be given with --register NAME, but there is none"):
        lineage.ensemble([trunk[2].uri], copy=True)
