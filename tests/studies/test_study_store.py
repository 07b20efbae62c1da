"""Trials as the study's database gives them out, without growing any."""

import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text

from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.recipe import Recipe, load_recipe, set_values, with_space
from lineage.studies.database import open_storage
from lineage.studies.leases import Heartbeat
from lineage.studies.lookup import SETTINGS, last_recipe, load_study
from lineage.studies.report import report_study
from lineage.studies.results import read_result
from lineage.studies.running_trial import FAILED, RunningTrial
from lineage.studies.settings import kept_settings
from lineage.studies.study_store import NoTrial, StudyStore, num_trials
from lineage.studies.trial_record import GENERATIONS


def _recipe(name: str, *settings: str, space: str = "strictness=0.4:1.0") -> Recipe:
    changes = [f"model.name={name}", *(f"study.{setting}" for setting in settings)]
    return with_space(load_recipe("digits", changes), [space])


def _store(url: str, recipe: Recipe) -> StudyStore:
    """Return the study as one worker has it open, without a heartbeat."""
    return StudyStore(open_storage(url), recipe, "digest")


def _taken(store: StudyStore) -> RunningTrial:
    """Take a trial that must be there."""
    trial = store.take()
    assert isinstance(trial, RunningTrial)
    return trial


def _complete(trial: RunningTrial, accuracy: float) -> None:
    """End a trial as one that has grown a generation."""
    trial.note(GENERATIONS, ["family/1"])
    assert trial.tell(TrialState.COMPLETE, [accuracy])


def _states(store: StudyStore) -> list[str]:
    return [trial.state.name for trial in store.study.get_trials()]


def test_workers_get_different_trials_and_no_more_than_there_are(url: str, name: str) -> None:
    recipe = _recipe(name, "trials=3")
    first, second = _store(url, recipe), _store(url, recipe)
    trials = [_taken(first), _taken(second), _taken(second)]
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert trials[0].values == {"patriarch.strictness": 0.8}
    assert first.take() is NoTrial.WAIT  # one of them may die
    assert trials[2].tell(TrialState.COMPLETE, [0.5])
    assert not first.has_ended()


def test_study_ends_with_its_last_trial(url: str, name: str) -> None:
    store = _store(url, _recipe(name, "trials=2"))
    for _ in range(2):
        assert _taken(store).tell(TrialState.COMPLETE, [0.5])
    assert store.take() is NoTrial.DONE
    assert store.has_ended()


def test_trials_depend_on_their_numbers_and_not_on_who_asks(url: str, name: str) -> None:
    def values(stores: list[StudyStore]) -> list[object]:
        found = []
        for store in stores:
            trial = _taken(store)
            found.append(trial.values["patriarch.strictness"])
            assert trial.tell(TrialState.COMPLETE, [0.5])
        return found

    alone = _store(url, _recipe(f"{name}-alone", "sampler=random"))
    together = [_store(url, _recipe(f"{name}-together", "sampler=random")) for _ in range(2)]
    found = values([alone] * 4)
    assert len(set(found)) == 4
    assert values(together * 2) == found
    assert values([_store(url, _recipe(f"{name}-seed", "sampler=random", "seed=1"))] * 4)[1:] != found[1:]


def test_interrupted_trial_is_tried_again_with_what_it_had_reported(url: str, name: str) -> None:
    store = _store(url, _recipe(name, "trials=1"))
    first = _taken(store)
    assert first.report(0.5, 3)
    assert not first.report(0.6, 3)
    first.interrupt()
    assert not store.has_ended()
    again = _taken(store)
    assert (again.number, again.values) == (1, first.values)
    assert again.study.trials[1].intermediate_values == {3: 0.5}
    assert again.study.trials[1].system_attrs["retry_history"] == [0]
    assert again.tell(TrialState.COMPLETE, [0.7])
    assert store.take() is NoTrial.DONE
    assert _states(store) == ["FAIL", "COMPLETE"]


def test_trial_that_failed_by_itself_is_not_tried_again(url: str, name: str) -> None:
    store = _store(url, _recipe(name, "trials=1"))
    trial = _taken(store)
    trial.note(FAILED, "it diverged")
    assert trial.tell(TrialState.FAIL)
    assert store.take() is NoTrial.DONE
    assert store.has_ended()


def test_trial_that_kills_its_workers_is_given_up(url: str, name: str) -> None:
    store = _store(url, _recipe(name, "trials=1", "retries=2"))
    for _ in range(3):
        assert _taken(store).tell(TrialState.FAIL)
    assert store.take() is NoTrial.DONE
    assert _states(store) == ["FAIL"] * 3


def test_people_may_interrupt_a_trial_as_often_as_they_like(url: str, name: str) -> None:
    store = _store(url, _recipe(name, "trials=1", "retries=0"))
    for _ in range(3):
        _taken(store).interrupt()
    assert isinstance(store.take(), RunningTrial)


def test_trial_of_a_silent_worker_is_tried_again_by_another(url: str, name: str) -> None:
    lost: list[int] = []
    recipe = _recipe(name, "trials=1", "heartbeat=1", "grace=2")
    silent = _store(url, recipe)
    living = StudyStore(
        open_storage(url), recipe, "digest", on_lost_trial=lambda trial: lost.append(trial.number)
    )
    late = _taken(silent)
    assert living.take() is NoTrial.WAIT
    while (trial := living.take()) is NoTrial.WAIT:
        time.sleep(0.1)
    assert isinstance(trial, RunningTrial)
    assert trial.number == 1
    assert lost == [0]
    late.note(GENERATIONS, ["s/1"])  # its worker lived after all, but comes too late
    assert not late.report(0.5, 3)
    assert not late.tell(TrialState.COMPLETE, [1.0])
    assert GENERATIONS not in living.study.trials[0].user_attrs
    assert _states(living) == ["FAIL", "RUNNING"]


def test_worker_that_was_taken_for_dead_takes_trials_again(url: str, name: str) -> None:
    recipe = _recipe(name, "trials=3", "heartbeat=1", "grace=2")
    silent, living = _store(url, recipe), _store(url, recipe)
    _taken(silent)
    with Heartbeat(living.leases, 0.5):
        time.sleep(3.1)
        again, other = _taken(living), _taken(silent)
        assert (again.number, other.number) == (1, 2)
        assert _taken(living).number == 3
        assert _states(living) == ["FAIL", "RUNNING", "RUNNING", "RUNNING"]


def test_trial_of_a_worker_with_a_heartbeat_is_left_to_it(url: str, name: str) -> None:
    recipe = _recipe(name, "trials=1", "heartbeat=1", "grace=2")
    working, other = _store(url, recipe), _store(url, recipe)
    with Heartbeat(working.leases, 0.5):
        trial = _taken(working)
        time.sleep(3.1)
        assert other.take() is NoTrial.WAIT
        assert trial.tell(TrialState.COMPLETE, [0.5])
    assert other.take() is NoTrial.DONE


def test_trial_whose_worker_died_in_asking_is_not_waited_for(url: str, name: str) -> None:
    store = _store(url, _recipe(name, "trials=1"))
    store.study.ask()
    assert isinstance(store.take(), RunningTrial)
    assert _states(store) == ["FAIL", "RUNNING"]


def test_grid_gives_each_point_once_to_whoever_asks(url: str, name: str) -> None:
    recipe = _recipe(name, "sampler=grid", space="strictness=0.5,0.75,1.0 temperature=1:2:0.5")
    assert num_trials(recipe.study) == 9
    stores = [_store(url, recipe), _store(url, recipe)]
    points = []
    for turn in range(9):
        trial = _taken(stores[turn % 2])
        points.append(tuple(trial.values.values()))
        if turn == 4:
            trial.interrupt()
            trial = _taken(stores[0])
            assert tuple(trial.values.values()) == points[-1]
        assert trial.tell(TrialState.COMPLETE, [0.5])
    assert len(set(points)) == 9
    assert [store.take() for store in stores] == [NoTrial.DONE, NoTrial.DONE]


def test_no_more_trials_of_a_grid_are_run_than_asked_for(url: str, name: str) -> None:
    assert num_trials(_recipe(name, "sampler=grid", "trials=4", space="top_k=2..9").study) == 4
    assert num_trials(_recipe(name, "sampler=grid", "trials=40", space="top_k=2..9").study) == 8
    assert num_trials(_recipe(name).study) == 20


def test_study_of_other_makers_is_refused(url: str, name: str) -> None:
    optuna.create_study(storage=url, study_name=name)
    with pytest.raises(
        IntegrityError, match=rf"The study '{name}' in .* must be one that lineage began, but another"
    ):
        _store(url, _recipe(name))
    with pytest.raises(NotFoundError, match=rf"holds no study '{name}' of lineage"):
        load_study(open_storage(url), name)


def test_study_of_other_images_is_refused(url: str, name: str) -> None:
    recipe = _recipe(name)
    StudyStore(open_storage(url), recipe, "digest")
    with pytest.raises(IntegrityError, match="the images are others"):
        StudyStore(open_storage(url), recipe, "another")


def test_running_trial_outlasts_a_change_to_summer_time(url_in_zone: Callable[[int], str], name: str) -> None:
    recipe = _recipe(name, "trials=1")
    working, other = _store(url_in_zone(1), recipe), _store(url_in_zone(2), recipe)
    trial = _taken(working)
    assert other.take() is NoTrial.WAIT
    assert trial.tell(TrialState.COMPLETE, [0.5])


def test_duration_of_a_trial_does_not_depend_on_local_time(url: str, name: str) -> None:
    store = _store(url, _recipe(name, "trials=1"))
    _complete(_taken(store), 0.5)
    with store.storage.engine.begin() as connection:
        connection.execute(
            text("UPDATE trials SET datetime_start = :start WHERE study_id = :study"),
            {"start": "2026-03-29 01:59:00", "study": store.study._study_id},
        )
    duration = read_result(load_study(open_storage(url), name)).trials[0].seconds
    assert duration == store.study.trials[0].user_attrs["lineage.seconds"]


FIRST_NAMES = {
    "student.soft_targets": "student.signals",
    "student.soft_target_classes": "student.signal_classes",
}


def _give_first_names(store: StudyStore) -> None:
    """Turn a study's database into one of the version in which some recipe keys had other names."""
    study = {"study": store.study._study_id}
    with store.storage.engine.begin() as connection:
        for present, first in FIRST_NAMES.items():
            names = {"present": present, "first": first}
            connection.execute(
                text(
                    "UPDATE trial_params SET param_name = :first WHERE param_name = :present"
                    " AND trial_id IN (SELECT trial_id FROM trials WHERE study_id = :study)"
                ),
                study | names,
            )
            quoted = {key: f'"{value}"' for key, value in names.items()}
            connection.execute(
                text(
                    "UPDATE study_user_attributes SET value_json = REPLACE(value_json, :present, :first)"
                    " WHERE study_id = :study"
                ),
                study | quoted,
            )
            connection.execute(
                text(
                    "UPDATE trial_system_attributes SET value_json = REPLACE(value_json, :present, :first)"
                    " WHERE trial_id IN (SELECT trial_id FROM trials WHERE study_id = :study)"
                ),
                study | quoted,
            )


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_study_of_the_first_names_of_keys_goes_on(sampler: str, url: str, name: str) -> None:
    space = "soft_targets=stored,live soft_target_classes=2..3 strictness=0.5,1.0"
    recipe = _recipe(name, f"sampler={sampler}", "trials=8", space=space)
    first = _store(url, recipe)
    for number in range(4):
        _complete(_taken(first), 0.1 * number)
    _give_first_names(first)
    stored = load_study(open_storage(url), name)
    assert set(stored.trials[0].params) == {*FIRST_NAMES.values(), "patriarch.strictness"}

    store = _store(url, recipe)
    for number in range(4):
        trial = _taken(store)
        assert set(trial.values) == {*FIRST_NAMES, "patriarch.strictness"}
        assert set_values(recipe, trial.values).student.soft_targets in ("stored", "live")
        _complete(trial, 0.1 * number)
    assert store.take() is NoTrial.DONE

    study = load_study(open_storage(url), name)
    assert {tuple(sorted(trial.params)) for trial in study.trials} == {
        ("patriarch.strictness", "student.signal_classes", "student.signals")
    }
    result = read_result(study)
    assert {tuple(sorted(trial.values)) for trial in result.trials} == {
        ("patriarch.strictness", *sorted(FIRST_NAMES))
    }
    if sampler == "grid":
        assert len({tuple(trial.values.values()) for trial in result.trials}) == 8


def test_study_begun_before_studies_kept_their_recipes_needs_it_once(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    recipe = _recipe(name, "trials=3")
    kept = kept_settings(recipe, "digest")
    optuna.create_study(storage=url, study_name=name, direction="maximize").set_user_attr(SETTINGS, kept)
    with pytest.raises(UsageError, match="must be given its recipe and settings once more"):
        last_recipe(url, name, [])
    _store(url, recipe)
    assert last_recipe(url, name, ["study.trials=4"]).study.trials == 4
    assert last_recipe(url, name, []) == recipe


@pytest.mark.usefixtures("home")
def test_report_of_a_study_of_the_first_names_shows_present_ones(name: str, tmp_path: Path) -> None:
    url = "sqlite:///studies.db"
    store = _store(url, _recipe(name, space="soft_targets=stored,live soft_target_classes=2..3"))
    store.ensure_run(lambda _: "0" * 32)
    for number in range(8):
        _complete(_taken(store), 0.1 * number)
    _give_first_names(store)
    report = report_study(name, url, tmp_path / "report")
    assert set(report.importances["accuracy"]) == {"soft_targets", "soft_target_classes"}
    page = tmp_path / "report" / "study.html"
    if page.is_file():
        assert "student.soft_target_classes" in page.read_text()
        assert "signal" not in page.read_text().rpartition("Plotly.newPlot")[2]
