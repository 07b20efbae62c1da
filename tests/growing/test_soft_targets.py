"""Students taught by stored soft targets: computed once, named by the teacher's version, shared by all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from ignite.engine import Events
from mlflow import MlflowClient

import lineage
from lineage.display.progress import SilentReporter
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.registry.care.checks import Diagnosis
from lineage.registry.care.doctor import examine

STORED = "student.soft_targets=stored"
Grow = Callable[..., list[lineage.Lineage]]


class Diary(SilentReporter):
    """A reporter that records views and messages."""

    def __init__(self) -> None:
        self.views: list[int] = []
        self.notices: list[str] = []

    def watch_views(self, recorder: Any, views: int) -> None:
        self.views.append(views)

    def notice(self, line: str) -> None:
        self.notices.append(line)


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def grow(home: Path, tiny_settings: tuple[str, ...], diary: Diary) -> Grow:
    """Function that grows the tiny ``digits`` in ``home`` with one student of stored soft targets."""

    def grow_tiny(*settings: str, **options: Any) -> list[lineage.Lineage]:
        overrides = [*tiny_settings, STORED, *settings]
        return lineage.grow("digits", overrides=overrides, reporter=diary, **{"generations": 1} | options)

    return grow_tiny


def tags_of(name: str = "digits", version: int = 1) -> dict[str, dict[str, Any]]:
    tags = MlflowClient().get_model_version(name, str(version)).tags
    return {key: json.loads(value) for key, value in tags.items() if key.startswith("lineage.signals.")}


def look(name: str = "digits", **options: Any) -> Diagnosis:
    return examine(name, lambda _key: False, **options)


def found(diagnosis: Diagnosis) -> set[tuple[str, str]]:
    return {(finding.check, finding.subject) for finding in diagnosis.findings}


def test_student_of_stored_soft_targets_is_that_of_a_live_teacher_but_for_rounding(
    grow: Grow, tiny_settings: tuple[str, ...]
) -> None:
    (stored,) = grow("training.epochs=1")
    (live,) = lineage.grow("digits", overrides=[*tiny_settings, "training.epochs=1"], generations=1)
    ours, theirs = (lineage.load(line.versions[1].uri).network.state_dict() for line in (stored, live))
    assert stored.versions[0].id == live.versions[0].id
    assert stored.versions[1].key != live.versions[1].key
    assert any((ours[name] != theirs[name]).any() for name in ours)
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() < 1e-3, name


def test_soft_targets_are_computed_once_for_siblings_seeds_and_temperatures(grow: Grow, diary: Diary) -> None:
    grow()
    assert diary.views == [2]
    for change in ("student.temperature=4", "student.label_weight=0.9", "training.lr=0.05"):
        lineage.grow(teacher="models:/digits/1", overrides=[change], reporter=diary)
    lineage.grow(teacher="models:/digits/1", seeds=[1, 2], reporter=diary)
    assert diary.views == [2]
    assert len(tags_of()) == 1
    family = lineage.tree("digits")
    assert len(family.students(family.versions[0])) == 6


def test_teacher_is_not_run_again(grow: Grow, monkeypatch: pytest.MonkeyPatch) -> None:
    grow()

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("lineage.training.teachers.LiveTeacher.logits", refuse)
    monkeypatch.setattr("lineage.training.teachers.LiveTeacher.predictions", refuse)
    monkeypatch.setattr("lineage.growing.plan.GenerationPlan.make_teacher", refuse)
    (line,) = lineage.grow(teacher="models:/digits/1", seeds=[1])
    assert line.versions[0].metrics["test_agreement"] > 0


def test_run_of_the_soft_targets_stands_beneath_the_teachers_and_in_its_tag(grow: Grow) -> None:
    (line,) = grow()
    ((entry),) = tags_of().values()
    run = mlflow.get_run(entry["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "soft targets of digits/1"
    assert run.data.tags["mlflow.parentRunId"] == line.versions[0].run_id
    assert run.data.params == {"views": "2", "classes": "all"}
    assert run.data.metrics["seconds"] > 0
    files = {file.path for file in MlflowClient().list_artifacts(entry["run_id"], "signals")}
    assert files == {
        f"signals/{name}" for name in ("signals.json", "logits.npy", "validation.npy", "test.npy")
    }
    assert not list(Path(".lineage").rglob("*.npy"))  # the store's own files are mapped
    assert tags_of(version=2) == {}
    assert look().healthy


def test_fewer_views_come_again_and_are_part_of_those_that_are_stored(grow: Grow, diary: Diary) -> None:
    grow("training.epochs=4")
    assert diary.views == [4]
    (two,) = grow("training.epochs=4", "student.views=2")
    assert two.num_trained == 1
    assert diary.views == [4]


def test_trials_of_a_study_share_them(home: Path, tiny_settings: tuple[str, ...]) -> None:
    result = lineage.study(
        "digits",
        name="s",
        overrides=[*tiny_settings, STORED, "succession.generations=1", "study.sampler=grid"],
        space=["temperature=1,4", "label_weight=0.2,0.8"],
    )
    assert result.count("COMPLETE") == 4
    runs = mlflow.search_runs(experiment_names=["s"], filter_string="tags.`lineage.kind` = 'signals'")
    assert len(runs) == 1
    assert len(tags_of("s")) == 1


def test_ensemble_teaches_by_stored_soft_targets(grow: Grow, diary: Diary) -> None:
    grow()
    lineage.ensemble(["models:/digits/1", "models:/digits/2"], name="digits")
    lineage.grow(teacher="models:/digits/3", overrides=[STORED], reporter=diary)
    assert diary.views == [2, 2]
    assert len(tags_of(version=3)) == 1


def test_more_views_than_are_stored_are_computed(grow: Grow, diary: Diary) -> None:
    grow("training.epochs=4", "student.views=2")
    grow("training.epochs=4")
    assert diary.views == [2, 4]
    assert [entry["views"] for entry in tags_of().values()] == [4]


def test_largest_classes_are_pinned_to_their_temperature(grow: Grow, diary: Diary) -> None:
    few = "student.soft_target_classes=4"
    grow(few, "student.temperature=2")
    grow(few, "student.temperature=2", "student.label_weight=0.9")
    assert diary.views == [2]
    with pytest.raises(
        UsageError, match=r"temperature must be 2, at which the largest 4 classes .* but is 3"
    ):
        grow(few, "student.temperature=3")
    grow("student.temperature=3")  # of all classes
    assert len(tags_of()) == 2


def test_each_student_that_teaches_has_soft_targets_of_its_own(grow: Grow, diary: Diary) -> None:
    grow(generations=2)
    assert diary.views == [2, 2]
    assert len(tags_of(version=1)) == len(tags_of(version=2)) == 1


def test_altered_soft_targets_are_refused(grow: Grow) -> None:
    grow()
    file = next(Path("mlruns").rglob("logits.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    ((entry),) = tags_of().values()
    remedy = f"delete run {entry['run_id']} in MLflow to have its soft targets computed again"
    with pytest.raises(IntegrityError, match=rf"logits\.npy must be as it was stored.*; {remedy}\."):
        lineage.grow(teacher="models:/digits/1", seeds=[1])


def test_doctor_takes_away_a_tag_whose_soft_targets_are_gone(grow: Grow, diary: Diary) -> None:
    grow()
    ((entry),) = tags_of().values()
    shutil.rmtree(next(Path("mlruns").rglob("logits.npy")).parent)
    with pytest.raises(NotFoundError, match=f"{entry['run_id']} must hold the teacher's soft targets"):
        lineage.grow(teacher="models:/digits/1", seeds=[1])
    assert found(look()) == {("missing-soft-targets", "models:/digits/1")}
    left = look(fix=True)
    assert found(left) == {("unused-soft-targets", f"run {entry['run_id']}")}  # only seen without the tag
    assert look(fix=True).healthy
    lineage.grow(teacher="models:/digits/1", seeds=[1], reporter=diary)
    assert diary.views == [2, 2]
    assert look().healthy


@pytest.mark.parametrize("value", ["[]", '{"run_id": "0", "views": 2}'])
def test_doctor_takes_away_a_tag_that_names_no_soft_targets(grow: Grow, value: str) -> None:
    grow()
    MlflowClient().set_model_version_tag("digits", "1", "lineage.signals.0", value)
    assert found(look()) == {("missing-soft-targets", "models:/digits/1")}
    assert look(fix=True).healthy


def test_doctor_finds_soft_targets_that_nobody_names(grow: Grow) -> None:
    grow("training.epochs=4", "student.views=2")
    ((superseded),) = tags_of().values()
    grow("training.epochs=4")
    assert found(look()) == {("unused-soft-targets", f"run {superseded['run_id']}")}
    assert look(fix=True).healthy
    assert mlflow.get_run(superseded["run_id"]).info.lifecycle_stage == "deleted"


def test_soft_targets_of_a_family_that_was_renamed_are_in_use(grow: Grow) -> None:
    grow()
    MlflowClient().rename_registered_model("digits", "numbers")
    grow("data.seed=1", generations=0)
    assert look().healthy


def test_doctor_finds_soft_targets_that_were_begun(grow: Grow, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("lineage.growing.soft_targets.record_soft_targets", fail)
        with pytest.raises(OSError, match="no space"):
            grow()
    (finding,) = look(fix=True).findings
    assert (finding.check, finding.problem.rpartition(" ")[2]) == ("half-finished", "FAILED")
    assert look(fix=True, kill_runs=True).healthy
    grow()
    assert look().healthy


def test_soft_targets_whose_run_was_deleted_are_computed_again(grow: Grow, diary: Diary) -> None:
    grow()
    ((entry),) = tags_of().values()
    MlflowClient().delete_run(entry["run_id"])
    lineage.grow(teacher="models:/digits/1", seeds=[1], reporter=diary)
    assert diary.views == [2, 2]


def test_altered_tag_is_refused(grow: Grow) -> None:
    grow()
    (name,) = tags_of()
    MlflowClient().set_model_version_tag("digits", "1", name, "[]")
    with pytest.raises(IntegrityError, match=r"must be what lineage wrote, but was altered"):
        lineage.grow(teacher="models:/digits/1", seeds=[1])


def test_store_that_refuses_the_tag_leaves_the_soft_targets_on_this_machine(
    grow: Grow, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = mlflow.exceptions.MlflowException("Permission denied")

    def refuse(*_: Any) -> None:
        raise refusal

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", refuse)
    grow()
    assert ["stay on this machine alone: Permission denied" in notice for notice in diary.notices] == [True]
    grow("student.temperature=2")
    assert diary.views == [2]
    assert (
        len(mlflow.search_runs(filter_string="tags.`lineage.kind` = 'signals'", experiment_names=["digits"]))
        == 1
    )
    assert tags_of() == {}


def test_another_machine_fetches_them_once(
    registry: Any, home: Path, tiny_settings: tuple[str, ...], diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"soft-targets-{home.name}-{registry.uri.partition(':')[0]}"[:60]
    lineage.grow("digits", name=name, generations=1, overrides=[*tiny_settings, STORED], reporter=diary)
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    lineage.grow(teacher=f"models:/{name}/1", seeds=[5], reporter=diary)
    lineage.grow(teacher=f"models:/{name}/1", seeds=[6], reporter=diary)
    assert diary.views == [2]
    fetched = list(Path(".lineage").rglob("logits.npy"))
    assert len(fetched) == (0 if registry.uri.startswith("sqlite") else 1)


def test_half_computed_folder_is_replaced_by_what_another_machine_finished(
    http_registry: Any,
    home: Path,
    tiny_settings: tuple[str, ...],
    diary: Diary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cut(SilentReporter):
        def watch_views(self, recorder: Any, views: int) -> None:
            @recorder.on(Events.EPOCH_COMPLETED)
            def _stop(_: Any) -> None:
                raise KeyboardInterrupt

    name = f"half-{home.name}"
    settings = {"name": name, "generations": 1, "overrides": [*tiny_settings, STORED]}
    with pytest.raises(KeyboardInterrupt):
        lineage.grow("digits", **settings, reporter=Cut())
    (begun,) = Path(".lineage").rglob("views-done")
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    with monkeypatch.context() as machine:
        machine.chdir(elsewhere)
        lineage.grow("digits", **settings, reporter=diary)
    lineage.grow(teacher=f"models:/{name}/1", seeds=[5], reporter=diary)
    assert diary.views == [2]
    assert {file.name for file in begun.parent.iterdir()} == {
        "signals.json",
        "logits.npy",
        "validation.npy",
        "test.npy",
    }
    file = begun.with_name("logits.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\1")
    lineage.grow(teacher=f"models:/{name}/1", seeds=[6], reporter=diary)
    assert file.read_bytes() == whole
    assert diary.views == [2]


@pytest.mark.slow
def test_two_processes_store_what_one_does(grow: Grow, run_on_two: Callable[..., Any], diary: Diary) -> None:
    grow()
    ((entry),) = tags_of().values()
    alone = np.load(next(Path("mlruns").rglob(f"{entry['run_id']}/artifacts/signals/logits.npy")))
    MlflowClient().delete_run(entry["run_id"])
    done = run_on_two("-m", "lineage", "grow", "--from", "models:/digits/1", "--seed", "1")
    assert done.returncode == 0, done.stderr
    ((entry),) = tags_of().values()
    together = np.load(next(Path("mlruns").rglob(f"{entry['run_id']}/artifacts/signals/logits.npy")))
    # halves of a batch may differ from the whole in the last bits of float32, and so by one step of float16
    np.testing.assert_allclose(together, alone, rtol=2**-9, atol=1e-3)
    assert lineage.tree("digits").versions[2].metrics["test_agreement"] > 0
