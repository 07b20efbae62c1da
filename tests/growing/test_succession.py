import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from warm import WarmProcess, run_warm

import lineage
from lineage.display.progress import SilentReporter
from lineage.errors import TrainingError
from lineage.recipe import load_recipe
from lineage.registry.care.doctor import examine
from lineage.registry.family.lookup import read_family
from lineage.registry.flavor import load_version
from lineage.registry.store.leases import delete_lease
from lineage.training.checkpoints import Checkpoint, state_home


def digests(versions: tuple[lineage.Version, ...]) -> list[str]:
    return [version.weights_sha256 for version in versions]


Grow = Callable[..., list[lineage.Lineage]]


@pytest.fixture
def grow(home: Path, tiny_settings: tuple[str, ...]) -> Grow:
    """Function that grows the tiny ``digits`` in ``home``, with further settings."""

    def grow_tiny(*settings: str, **options: Any) -> list[lineage.Lineage]:
        return lineage.grow("digits", overrides=[*tiny_settings, *settings], **options)

    return grow_tiny


def test_succession_links_each_student_to_its_teacher(grow: Grow) -> None:
    (grown,) = grow()
    assert [version.generation for version in grown.versions] == [0, 1, 2]
    assert [version.teacher for version in grown.versions] == [None, "digits/1", "digits/2"]
    assert {version.root for version in grown.versions} == {"digits/1"}
    assert [version.objective for version in grown.versions] == ["tolerant", "student", "student"]
    assert grown.num_trained == 3
    family = lineage.tree("digits")
    assert digests(family.versions) == digests(grown.versions)
    assert "latest-generation" in family.versions[-1].aliases
    best = max(family, key=lambda version: version.metrics["validation_accuracy"])
    assert "best" in best.aliases


def test_succession_run_again_trains_nothing(grow: Grow) -> None:
    (first,) = grow(generations=1)
    (again,) = grow(generations=1)
    assert again.num_trained == 0
    assert [v.uri for v in again.versions] == [v.uri for v in first.versions]
    (longer,) = grow(generations=2)
    assert longer.num_trained == 1
    assert longer.versions[2].teacher == first.versions[1].id
    assert len(lineage.tree("digits")) == 3


def test_succession_gives_the_same_bits_twice_and_others_for_another_seed(grow: Grow) -> None:
    first, other = grow(generations=1, seeds=[0, 1])
    (again,) = grow(name="again", generations=1)
    assert digests(again.versions) == digests(first.versions)
    assert not set(digests(other.versions)) & set(digests(first.versions))
    numbers = [{k: v for k, v in x.metrics.items() if k not in {"seconds", "images_per_second"}}
               for x in (*first.versions, *again.versions)]  # fmt: skip
    assert numbers[:2] == numbers[2:]


def test_students_of_other_settings_share_their_patriarch(grow: Grow) -> None:
    grow(generations=1)
    (hot,) = grow("student.temperature=4", generations=1)
    (unused,) = grow("patriarch.smoothing=0.3", generations=1)
    assert hot.num_trained == 1
    assert unused.num_trained == 0
    family = lineage.tree("digits")
    assert [student.version for student in family.students(family.versions[0])] == [2, 3]


def test_teacher_comes_from_the_registry(grow: Grow) -> None:
    (patriarch,) = grow(generations=0)
    folder = next(Path("mlruns").rglob("weights.safetensors"))
    folder.write_bytes(folder.read_bytes()[:-1] + b"\x07")
    with pytest.raises(lineage.LineageError, match=r"weights of models:/digits/1 must have the SHA-256"):
        grow(generations=1)
    assert len(patriarch.versions) == 1


def test_ensemble_of_all_so_far_is_the_mean_of_probabilities(grow: Grow) -> None:
    (grown,) = grow(generations=1)
    (longer,) = grow(generations=2)  # the first two are pulled
    from lineage.data.datasets import load_dataset

    test = load_dataset("digits").test
    pixels = test.pixels.permute(0, 3, 1, 2) / 255
    members = [load_version(v).logits(pixels).double().softmax(1) for v in longer.versions]
    for size, version in enumerate(longer.versions, start=1):
        mean = torch.stack(members[:size]).mean(0)
        expected = (mean.argmax(1) == test.labels).double().mean().item()
        assert version.metrics["ensemble_accuracy"] == pytest.approx(expected, abs=1.5 / len(test))
    assert grown.versions[0].metrics["ensemble_accuracy"] == grown.versions[0].metrics["test_accuracy"]


class Listener(SilentReporter):
    """A reporter that records messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)


def test_ancestor_that_cannot_be_pulled_does_not_hold_a_generation_back(grow: Grow) -> None:
    (patriarch, _) = grow(generations=1)[0].versions
    (weights,) = Path("mlruns").rglob(f"{patriarch.model_id}/**/weights.safetensors")
    weights.unlink()
    listener = Listener()
    (grown,) = grow(generations=3, reporter=listener)
    assert grown.num_trained == 2
    assert [("ensemble_accuracy" in version.metrics) for version in grown.versions] == [
        True,
        True,
        False,
        False,
    ]
    gone, line = listener.lines
    assert gone.startswith("The weights of models:/digits/1 must lie in")
    assert line.startswith(
        "the ensemble of all generations so far is left out: The weights of models:/digits/1"
    )


def test_ancestor_is_missed_before_training(grow: Grow) -> None:
    (patriarch, _) = grow(generations=1)[0].versions
    (weights,) = Path("mlruns").rglob(f"{patriarch.model_id}/**/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")

    class Order(Listener):
        def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
            self.lines.append(f"trains {generation}")

    order = Order()
    grow(generations=2, reporter=order)
    assert [line.partition(" ")[0] for line in order.lines] == ["the", "trains"]


@pytest.mark.parametrize("gone", ["model", "version"])
def test_branch_grows_though_the_teacher_of_its_start_is_gone(grow: Grow, gone: str) -> None:
    (patriarch,) = grow(generations=0)[0].versions
    (student,) = grow(teacher=patriarch.uri, name="branch")[0].versions
    if gone == "model":
        MlflowClient().delete_registered_model("digits")
    else:
        MlflowClient().delete_model_version("digits", "1")
    listener = Listener()
    (grandchild,) = grow(teacher=student.uri, reporter=listener)[0].versions
    assert grandchild.teacher == "branch/1"
    assert "ensemble_accuracy" not in grandchild.metrics
    (line,) = listener.lines
    assert "digits" in line


def test_runs_nest_by_teacher_and_hold_the_epochs(grow: Grow) -> None:
    (grown,) = grow(generations=1)
    client = MlflowClient()
    runs = [client.get_run(version.run_id) for version in grown.versions]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert runs[1].data.tags["mlflow.parentRunId"] == runs[0].info.run_id
    assert runs[1].inputs.model_inputs[0].model_id == grown.versions[0].model_id
    assert runs[1].outputs.model_outputs[0].model_id == grown.versions[1].model_id
    history = client.get_metric_history(runs[1].info.run_id, "validation_accuracy")
    assert [point.step for point in history] == [1, 2]
    assert history[-1].value == grown.versions[1].metrics["validation_accuracy"]
    assert runs[1].data.tags["lineage.epoch"] == "2"
    stored = client.get_logged_model(grown.versions[1].model_id)
    assert stored.experiment_id == runs[1].info.experiment_id
    assert {m.key: m.value for m in stored.metrics}["test_accuracy"] == grown.versions[1].metrics[
        "test_accuracy"
    ]


def test_recipe_of_a_version_grows_it_again(grow: Grow, tiny_settings: tuple[str, ...]) -> None:
    (grown,) = grow(generations=0)
    stored = lineage.load(grown.versions[0].uri).recipe
    assert stored == load_recipe("digits", [*tiny_settings, "succession.generations=0"]).to_json()


def test_without_validation_there_is_no_best(grow: Grow) -> None:
    (grown,) = grow("data.validation=0", generations=0)
    assert not [name for name in grown.versions[0].metrics if name.startswith("validation_")]
    assert lineage.tree("digits").versions[0].aliases == ("latest-generation",)


def test_generation_without_epochs_is_registered(grow: Grow) -> None:
    (grown,) = grow("training.epochs=0", generations=1)
    assert len(grown.versions) == 2
    assert "images_per_second" not in grown.versions[0].metrics


class Crash(SilentReporter):
    """A reporter that fails once, in the middle of an epoch."""

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        if generation == 1:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=9), self._fail)

    def _fail(self) -> None:
        raise TrainingError("struck by lightning")


def test_failed_generation_continues_in_its_run(grow: Grow) -> None:
    with pytest.raises(TrainingError, match="lightning"):
        grow(generations=1, reporter=Crash())
    client = MlflowClient()
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    (torn,) = client.search_runs([experiment.experiment_id], "attributes.status = 'FAILED'")
    assert len(lineage.tree("digits")) == 1
    (grown,) = grow(generations=1)
    assert grown.versions[1].run_id == torn.info.run_id
    assert client.get_run(torn.info.run_id).info.status == "FINISHED"
    (whole,) = grow(name="whole", generations=1)
    assert digests(whole.versions) == digests(grown.versions)
    assert list(state_home().iterdir()) == []


def test_fresh_drops_what_was_left(grow: Grow) -> None:
    with pytest.raises(TrainingError):
        grow(generations=1, reporter=Crash())
    (left,) = state_home().iterdir()
    run_id = (left / "run_id").read_text()
    (grown,) = grow(generations=1, fresh=True)
    assert grown.versions[1].run_id != run_id
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


def test_crash_after_registration_is_tidied_up(grow: Grow, monkeypatch: pytest.MonkeyPatch) -> None:
    from lineage.registry.store.runs import GenerationRun

    def crash(*_: object) -> None:
        raise TrainingError("killed before the run was closed")

    with monkeypatch.context() as patch:
        patch.setattr(GenerationRun, "finish", crash)
        with pytest.raises(TrainingError):
            grow(generations=0)
    (grown,) = grow(generations=0)
    assert grown.num_trained == 0
    assert MlflowClient().get_run(grown.versions[0].run_id).info.status == "FINISHED"
    assert len(lineage.tree("digits")) == 1
    assert list(state_home().iterdir()) == []


def test_generation_that_another_process_grows_in_the_folder_is_awaited(grow: Grow) -> None:
    with pytest.raises(TrainingError):
        grow(generations=1, reporter=Crash())
    (left,) = state_home().iterdir()
    before = sorted(left.iterdir())
    other = Checkpoint(left)

    class Patient(Listener):
        def notice(self, line: str) -> None:
            super().notice(line)
            (found,) = lineage.tree("digits")
            assert found.generation == 0
            other.release()
            assert sorted(left.iterdir()) == before

    other.acquire()
    patient = Patient()
    assert grow(generations=1, reporter=patient)[0].num_trained == 1
    (line,) = patient.lines
    assert line.startswith(f"One process at a time may grow the generation in {left}, but process ")


class Twin(SilentReporter):
    """A reporter that grows the same family in another folder while the second generation trains.

    The lease on that is taken away first, as if both had claimed it at the same moment.
    """

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder = folder
        self.command = ["-m", "lineage", "grow", "digits", *arguments]
        self.pulls: list[int] = []

    def pulled(self, version: lineage.Version) -> None:
        self.pulls.append(version.generation)

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        if generation == 1:
            experiment = MlflowClient().get_experiment_by_name("digits")
            assert experiment is not None
            (lease,) = (tag for tag in experiment.tags if tag.startswith("lineage.lease."))
            delete_lease(experiment.experiment_id, lease.removeprefix("lineage.lease."))
            run_warm(self.command, self.folder).check_returncode()


@pytest.mark.slow
def test_generation_that_another_folder_registered_meanwhile_is_taken(
    grow: Grow, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    twin = Twin(elsewhere, ["--generations", "1", *tiny()])
    (grown,) = grow(generations=1, reporter=twin)
    assert (grown.num_trained, twin.pulls) == (1, [1])
    assert [version.id for version in lineage.tree("digits")] == [version.id for version in grown.versions]
    client = MlflowClient()
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    pointed = [run.data.tags["lineage.version"] for run in runs if run.info.status == "FINISHED"]
    assert sorted(pointed) == ["digits/1", "digits/2", "digits/2"]
    assert examine("digits", lambda _key: False).healthy
    assert list(state_home().iterdir()) == []


def test_killed_in_the_middle_of_an_epoch_it_resumes_to_the_same_bits(
    home: Path,
    run_lineage: Callable[..., "subprocess.CompletedProcess[str]"],
    tiny: Callable[..., list[str]],
) -> None:
    arguments = ["grow", "digits", "--generations", "1", *tiny("training.epochs=6", "network.width=16")]
    process = WarmProcess(["-m", "lineage", *arguments], home, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("generation 1: epoch 2/"):
            break
    time.sleep(0.05)  # into the third epoch
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert len(read_family("digits")) == 1
    resumed = run_lineage(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "generation 1: resumed after epoch" in resumed.stderr
    whole = run_lineage(*arguments, "--name", "whole")
    assert whole.returncode == 0, whole.stderr
    assert digests(read_family("digits").versions) == digests(read_family("whole").versions)


def test_two_processes_register_one_family_and_measure_every_sample(
    run_on_two: Callable[..., "subprocess.CompletedProcess[str]"], tiny: Callable[..., list[str]]
) -> None:
    done = run_on_two("-m", "lineage", "grow", "digits", *tiny())
    assert done.returncode == 0, done.stderr
    family = read_family("digits")
    assert [version.teacher for version in family] == [None, "digits/1", "digits/2"]
    assert MlflowClient().get_run(family.versions[0].run_id).data.tags["lineage.processes"] == "2"
    assert done.stdout.count("digits, seed 0") == 1  # one table, from rank 0
    for version in family:
        evaluation = lineage.evaluate(version.uri)
        for name in ("test_accuracy", "test_top5_accuracy"):
            assert evaluation.metrics[name] == evaluation.recorded[name]
        assert evaluation.metrics["test_cross_entropy"] == pytest.approx(
            evaluation.recorded["test_cross_entropy"], abs=1e-6
        )
