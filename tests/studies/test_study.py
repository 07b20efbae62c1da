"""Studies from end to end, in an sqlite file beside an sqlite registry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from mlflow.entities import Run

import lineage
from lineage.display.study_progress import SilentStudyReporter
from lineage.errors import IntegrityError, RecipeError, TrainingError, UsageError
from lineage.registry.care.doctor import examine
from lineage.studies.database import only_process
from lineage.training.checkpoints import state_home

Study = Callable[..., lineage.StudyResult]

GRID = ["strictness=0.5,0.75,1.0", "temperature=1,2,4"]
RANGES = ["strictness=0.4:1.0", "temperature=1:8:log", "label_weight=0.1:0.9", "top_k=2..8"]


@pytest.fixture(scope="session")
def study(tiny_settings: tuple[str, ...]) -> Study:
    """Function that studies the tiny ``digits`` with one student, in the working directory."""

    def run(name: str, *settings: str, **options: Any) -> lineage.StudyResult:
        overrides = [*tiny_settings, "succession.generations=1", *settings]
        return lineage.study("digits", name=name, overrides=overrides, **options)

    return run


@pytest.fixture(scope="module")
def grid(module_home: Path, study: Study) -> lineage.StudyResult:
    """A grid of three strictnesses and three temperatures, which the tests look at."""
    return study("grid", "study.sampler=grid", space=GRID)


def _runs(name: str, condition: str = "") -> list[Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], condition, order_by=["start_time ASC"]))


def test_grid_trains_each_patriarch_and_each_student_once(grid: lineage.StudyResult) -> None:
    family = lineage.tree("grid")
    assert [version.generation for version in family].count(0) == 3
    assert [version.generation for version in family].count(1) == 9
    assert len({version.key for version in family}) == 12
    assert {len(family.students(version)) for version in family.roots} == {3}


def test_grid_runs_its_points_and_nothing_else(grid: lineage.StudyResult) -> None:
    assert [trial.state for trial in grid.trials] == ["COMPLETE"] * 9
    points = {(t.values["patriarch.strictness"], t.values["student.temperature"]) for t in grid.trials}
    assert points == {(eta, t) for eta in (0.5, 0.75, 1.0) for t in (1.0, 2.0, 4.0)}


def test_trainings_that_were_saved_are_counted(grid: lineage.StudyResult) -> None:
    assert (grid.num_needed, grid.num_trained, grid.num_saved) == (18, 12, 6)


def test_objective_is_the_validation_accuracy_of_the_last_generation(grid: lineage.StudyResult) -> None:
    family = lineage.tree("grid")
    for trial in grid.trials:
        teacher, student = (family.with_id(version) for version in trial.generations)
        assert teacher is not None
        assert student is not None
        assert student.teacher == teacher.id
        assert trial.objectives == {"accuracy": student.metrics["validation_accuracy"]}


def test_winner_has_the_alias_of_the_study_and_is_continued(
    grid: lineage.StudyResult, tiny_settings: tuple[str, ...]
) -> None:
    (best,) = grid.best
    assert best.objectives["accuracy"] == max(trial.objectives["accuracy"] for trial in grid.trials)
    winner = next(version for version in lineage.tree("grid") if "best-of-grid" in version.aliases)
    assert (winner.id, winner.uri) == (best.generations[-1], grid.winner)
    (grown,) = lineage.grow(teacher="models:/grid@best-of-grid", name="continued")
    assert [(version.teacher, version.generation) for version in grown.versions] == [(winner.id, 2)]


def test_each_trial_has_a_run_below_that_of_the_study(grid: lineage.StudyResult) -> None:
    (parent,) = _runs("grid", "tags.`lineage.study.objective` != ''")
    assert parent.info.run_id == grid.run_id
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trainings_saved"] == 6
    assert "models:/grid@best-of-grid" in parent.data.tags["mlflow.note.content"]
    children = _runs("grid", f"tags.mlflow.parentRunId = '{grid.run_id}'")
    assert {child.data.tags["lineage.trial"] for child in children} == {str(n) for n in range(9)}
    assert {child.info.status for child in children} == {"FINISHED"}
    for child in children:
        trial = grid.trials[int(child.data.tags["lineage.trial"])]
        assert child.data.metrics["objective_accuracy"] == trial.objectives["accuracy"]
        assert child.data.params["patriarch.strictness"] == str(trial.values["patriarch.strictness"])


def test_run_of_a_trial_points_to_its_generations_and_leaves_theirs_alone(grid: lineage.StudyResult) -> None:
    family = lineage.tree("grid")
    for child in _runs("grid", f"tags.mlflow.parentRunId = '{grid.run_id}'"):
        trial = grid.trials[int(child.data.tags["lineage.trial"])]
        tags = [child.data.tags[f"lineage.trial.generation.{index}"] for index in range(2)]
        assert tags == list(trial.generations)
        versions = [family.with_id(tag) for tag in tags]
        inputs = {given.model_id for given in MlflowClient().get_run(child.info.run_id).inputs.model_inputs}
        assert inputs == {version.model_id for version in versions if version}
        trained = [child.data.tags[f"lineage.trial.generation.{index}.trained"] for index in range(2)]
        assert trained == [str(version in trial.trained).lower() for version in trial.generations]
    for version in family:
        parent = MlflowClient().get_run(version.run_id).data.tags.get("mlflow.parentRunId")
        teacher = family.teacher(version)
        assert parent == (None if teacher is None else teacher.run_id)


def test_study_leaves_a_healthy_family(grid: lineage.StudyResult) -> None:
    assert examine("grid", lambda _: False).healthy


def test_study_run_again_does_nothing(grid: lineage.StudyResult, study: Study) -> None:
    runs = len(_runs("grid"))
    assert study("grid", "study.sampler=grid", space=GRID) == grid
    assert len(_runs("grid")) == runs


@pytest.mark.parametrize(
    ("settings", "space", "difference"),
    [
        (["training.epochs=3"], GRID, "training.epochs was 2 and is 3"),
        (["succession.seed=1"], GRID, "succession.seed was 0 and is 1"),
        ([], ["strictness=0.5,1.0", GRID[1]], "patriarch.strictness was 0.5, 0.75, 1.0 and is 0.5, 1.0"),
        ([], [GRID[0]], "student.temperature was 1, 2, 4 and is absent"),
        (["study.objective=calibration"], GRID, "the objective was accuracy and is calibration"),
    ],
)
@pytest.mark.usefixtures("grid")
def test_study_with_other_settings_is_refused_with_the_difference(
    settings: list[str], space: list[str], difference: str, study: Study
) -> None:
    runs = len(_runs("grid"))
    with pytest.raises(IntegrityError, match=r"The study 'grid' must go on as it was begun") as refused:
        study("grid", "study.sampler=grid", *settings, space=space)
    assert difference in str(refused.value)
    assert len(_runs("grid")) == runs


@pytest.mark.usefixtures("home")
def test_first_trial_is_the_recipe_and_more_trials_continue(study: Study) -> None:
    first = study("s", space=RANGES, trials=2)
    assert first.trials[0].values == {
        "patriarch.strictness": 0.8,
        "student.temperature": 1.0,
        "student.label_weight": 0.3,
        "patriarch.top_k": 3,
    }
    longer = study("s", space=RANGES, trials=3)
    assert longer.trials[:2] == first.trials
    assert len(longer.trials) == 3
    assert lineage.study(name="s") == longer  # with the last number of trials
    assert lineage.study(name="s", trials=4).trials[:3] == longer.trials
    whole = study("whole", space=RANGES, trials=3)
    assert [trial.values for trial in whole.trials] == [trial.values for trial in longer.trials]


@pytest.mark.usefixtures("home")
def test_trials_pull_what_was_grown_before(study: Study, tiny_settings: tuple[str, ...]) -> None:
    lineage.grow("digits", name="s", generations=1, overrides=tiny_settings)
    result = study("s", space=["strictness=0.4:1.0"], trials=1)
    assert (result.num_needed, result.num_trained, result.num_saved) == (2, 0, 2)


@pytest.mark.usefixtures("home")
def test_student_is_pruned_in_its_epochs_and_a_patriarch_never(study: Study) -> None:
    always = ["study.pruner=threshold", "study.pruner_options={lower=1.1}"]
    result = study("s", *always, space=["temperature=1:8"], trials=2)
    assert [trial.state for trial in result.trials] == ["PRUNED", "PRUNED"]
    assert [trial.generations for trial in result.trials] == [("s/1",), ("s/1",)]
    assert (result.best, result.winner) == ((), "")
    trials = _runs("s", "tags.`lineage.trial.state` = 'PRUNED'")
    reasons = {run.data.tags["lineage.trial.reason"] for run in trials}
    assert reasons == {"worse than other trials in epoch 1 of generation 1"}
    students = _runs("s", "tags.`lineage.abandoned` != ''")
    assert [run.info.status for run in [*trials, *students]] == ["KILLED"] * 4
    assert {run.data.tags["lineage.abandoned"] for run in students} == reasons
    assert list(state_home().iterdir()) == []
    assert examine("s", lambda _: False).healthy


@pytest.mark.parametrize(("generations", "state", "count"), [(2, "PRUNED", 2), (1, "COMPLETE", 2)])
@pytest.mark.usefixtures("home")
def test_trial_is_pruned_between_generations_but_not_after_the_last(
    generations: int, state: str, count: int, study: Study
) -> None:
    options = "study.pruner_options={lower=1.1,n_warmup_steps=4}"  # the second epoch of generation 1
    settings = ["study.pruner=threshold", options, f"succession.generations={generations}"]
    result = study("s", *settings, space=["temperature=1:8"], trials=1)
    assert [trial.state for trial in result.trials] == [state]
    assert len(result.trials[0].generations) == len(lineage.tree("s")) == count


@pytest.mark.usefixtures("home")
def test_several_objectives_give_a_front_without_pruning(study: Study) -> None:
    settings = ["study.objective=accuracy,seconds", "study.sampler=grid"]
    result = study("s", *settings, space=["strictness=0.5,1.0", "temperature=1,4"])
    assert result.objectives == {"accuracy": "maximize", "seconds": "minimize"}
    assert [trial.state for trial in result.trials] == ["COMPLETE"] * 4
    family = lineage.tree("s")
    for trial in result.trials:
        versions = [family.with_id(version) for version in trial.generations]
        stored = sum(version.metrics["seconds"] for version in versions if version)
        assert trial.objectives["seconds"] == stored  # of what was pulled as well
    for trial in result.trials:
        beaten = [
            other
            for other in result.trials
            if other.objectives["accuracy"] >= trial.objectives["accuracy"]
            and other.objectives["seconds"] <= trial.objectives["seconds"]
            and other.objectives != trial.objectives
        ]
        assert (trial in result.best) == (not beaten)
    assert result.best[0].objectives["accuracy"] == max(t.objectives["accuracy"] for t in result.trials)
    assert result.winner == f"models:/{result.best[0].generations[-1]}"


@pytest.mark.usefixtures("home")
def test_trial_that_diverges_fails_alone_and_is_not_tried_again(study: Study) -> None:
    result = study("s", "study.sampler=grid", space=["lr=0.1,1e9"])
    failed, complete = sorted(result.trials, key=lambda trial: trial.state == "COMPLETE")
    assert (failed.state, complete.state) == ("FAIL", "COMPLETE")
    assert failed.reason.startswith("The training loss must be finite, but is not in epoch 1")
    assert study("s", "study.sampler=grid", space=["lr=0.1,1e9"]) == result
    (run,) = _runs("s", "tags.`lineage.trial.state` = 'FAIL'")
    assert (run.info.status, run.data.tags["lineage.trial.reason"]) == ("FAILED", failed.reason)


@pytest.mark.usefixtures("home")
def test_trial_whose_values_do_not_hold_together_fails_alone(study: Study) -> None:
    space = ["momentum=0.0,0.9", "nesterov=true,false"]
    result = study("s", "study.sampler=grid", "training.nesterov=false", space=space)
    assert sorted(trial.state for trial in result.trials) == ["COMPLETE"] * 3 + ["FAIL"]
    (failed,) = (trial for trial in result.trials if trial.state == "FAIL")
    assert failed.reason == "training.nesterov needs a training.momentum greater than 0, but got 0."
    assert not failed.generations


class Impatient(SilentStudyReporter):
    """Interrupts in the second epoch of the first student."""

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        @trainer.on(Events.EPOCH_STARTED(once=2))
        def _stop(_: Engine) -> None:
            if generation == 1:
                raise KeyboardInterrupt


class EpochLog(SilentStudyReporter):
    """Records the epochs that are trained, by generation."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, int]] = []

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        @trainer.on(Events.EPOCH_STARTED)
        def _record(engine: Engine) -> None:
            self.epochs.append((generation, engine.state.epoch))


@pytest.mark.usefixtures("home")
def test_interrupted_trial_is_marked_and_continued_from_its_checkpoint(study: Study) -> None:
    with pytest.raises(KeyboardInterrupt):
        study("s", space=["temperature=1:8"], trials=1, reporter=Impatient())
    assert {run.info.status for run in _runs("s", "tags.`lineage.trial` = '0'")} == {"KILLED"}
    (parent,) = _runs("s", "tags.`lineage.study.objective` != ''")
    assert parent.info.status == "KILLED"
    log = EpochLog()
    result = study("s", space=["temperature=1:8"], trials=1, reporter=log)
    assert log.epochs == [(1, 2)]
    assert [(trial.state, trial.retry_of, trial.reason) for trial in result.trials] == [
        ("FAIL", None, "interrupted"),
        ("COMPLETE", 0, ""),
    ]
    assert result.trials[0].values == result.trials[1].values
    assert (result.num_needed, result.num_trained, result.num_saved) == (2, 2, 0)
    assert [run.info.status for run in _runs("s", "tags.`lineage.study.objective` != ''")] == ["FINISHED"]


@pytest.mark.usefixtures("home")
def test_study_in_sqlite_takes_one_process(study: Study) -> None:
    with (
        only_process("sqlite:///studies.db", "s"),
        pytest.raises(
            IntegrityError, match=r"Study 's' in sqlite:///studies.db takes one process, and another"
        ),
    ):
        study("s", space=["temperature=1:8"], trials=1)
    assert not MlflowClient().search_registered_models()
    assert study("s", space=["temperature=1:8"], trials=1).count("COMPLETE") == 1


@pytest.mark.usefixtures("home")
def test_recipe_may_hold_the_whole_study(tmp_path: Path, tiny_settings: tuple[str, ...]) -> None:
    from lineage.recipe import recipe_path

    section = (
        '\n[study]\nsampler = "random"\ntrials = 2\nobjective = "cross_entropy"\n'
        '[study.space]\n"student.temperature" = { low = 1, high = 8, step = 1 }\n'
    )
    (tmp_path / "mine.toml").write_text(recipe_path("digits").read_text() + section)
    settings = [*tiny_settings, "succession.generations=1"]
    result = lineage.study("mine.toml", name="s", overrides=settings)
    assert result.objectives == {"cross_entropy": "minimize"}
    assert [trial.values["student.temperature"] % 1 for trial in result.trials] == [0, 0]
    assert json.loads(json.dumps(result.to_json()))["saved"] == result.num_saved == 1


@pytest.mark.parametrize(
    ("settings", "options", "error", "sentence"),
    [
        (
            ["student.soft_targets=stored", "student.soft_target_classes=3"],
            {"space": ["temperature=1:4"]},
            RecipeError,
            "student.temperature must not vary in a study whose stored soft targets hold the largest classes",
        ),
        (
            ["study.sampler=grid"],
            {"space": ["temperature=1,4", "soft_target_classes=2,3", "soft_targets=live,stored"]},
            RecipeError,
            "student.temperature must not vary in a study whose stored soft targets hold the largest classes",
        ),
        (
            [],
            {"space": ["soft_target_classes=2..20", "soft_targets=live,stored"]},
            UsageError,
            "student.soft_target_classes must be at least 1 and below the number of classes, 10, but got 20",
        ),
        (["data.validation=0"], {}, RecipeError, "data.validation must be greater than 0 for a study, which"),
        ([], {"space": []}, RecipeError, "A study must have a space, but this one has none"),
        (
            [],
            {"space": ["top_k=2..11"]},
            RecipeError,
            "patriarch.top_k must be between 2 and the number of cl",
        ),
        (
            ["succession.student=[{generation = 2, epochs = 1}]"],
            {},
            RecipeError,
            "succession.student must name generations from 1 to 1, the last one that is grown, but has 2",
        ),
        ([], {"space": ["width=0..4"]}, RecipeError, "network.width must be at least 1 and at most 65,536"),
        (
            ["study.sampler=grid"],
            {},
            RecipeError,
            "The grid sampler must know every value, but student.temper",
        ),
        (
            [],
            {"workers": 2},
            UsageError,
            "--workers 2 needs a database that several processes can write, but",
        ),
        (
            [],
            {"storage": "studies.db"},
            UsageError,
            "--storage must be the URL of a database, such as sqlite:",
        ),
        (
            [],
            {"name": "a b"},
            UsageError,
            "A study's name must be made of letters, digits, '_' and '-', since",
        ),
    ],
)
def test_study_that_cannot_hold_creates_nothing(
    settings: list[str],
    options: dict[str, Any],
    error: type[Exception],
    sentence: str,
    study: Study,
    home: Path,
) -> None:
    with pytest.raises(error, match=sentence):
        study(*[options.pop("name", "s"), *settings], **{"space": ["temperature=1:8"]} | options)
    assert [path.name for path in home.iterdir()] == ["mlflow.db"]
    assert not MlflowClient().search_registered_models()
    assert [found.name for found in MlflowClient().search_experiments()] == ["Default"]


def test_failing_workers_are_told(study: Study) -> None:
    from lineage.studies.worker_processes import error_of

    assert isinstance(error_of([-9, -9], "s"), TrainingError)
    assert error_of([0, 5], "s").exit_code == 5
    assert "left with -9, 1; run the same command again, it continues." in str(error_of([-9, 1], "s"))
