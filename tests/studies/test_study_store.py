"""Trials as the study's database gives them out, without growing any."""

import optuna
import pytest
from optuna.trial import TrialState

from lineage.errors import IntegrityError, NotFoundError
from lineage.recipe import Recipe, load_recipe, with_space
from lineage.studies.database import open_storage
from lineage.studies.study_store import (
    FAILED,
    INTERRUPTED,
    Assignment,
    NoTrial,
    StudyStore,
    load_study,
    num_trials,
)


def _recipe(name: str, *settings: str, space: str = "strictness=0.4:1.0") -> Recipe:
    changes = [f"model.name={name}", *(f"study.{setting}" for setting in settings)]
    return with_space(load_recipe("digits", changes), [space])


def _book(url: str, recipe: Recipe) -> StudyStore:
    """That of one worker, which is never heard from."""
    return StudyStore(open_storage(url, 60, 1), recipe, "digest")


def _end(book: StudyStore, state: TrialState, values: list[float] | None = None) -> None:
    assert book.attempt is not None
    assert book.attempt.tell(state, values)


def _states(book: StudyStore) -> list[str]:
    return [trial.state.name for trial in book.study.get_trials()]


def test_workers_get_different_trials_and_no_more_than_there_are(url: str, name: str) -> None:
    recipe = _recipe(name, "trials=3")
    first, second = _book(url, recipe), _book(url, recipe)
    given = [first.take(), second.take(), second.take()]
    assert [one.number for one in given if isinstance(one, Assignment)] == [0, 1, 2]
    assert given[0] == Assignment(0, {"patriarch.strictness": 0.8})
    assert first.take() is NoTrial.WAIT  # one of them may die
    _end(second, TrialState.COMPLETE, [0.5])
    assert not first.has_ended()


def test_study_ends_with_its_last_trial(url: str, name: str) -> None:
    book = _book(url, _recipe(name, "trials=2"))
    for _ in range(2):
        assert isinstance(book.take(), Assignment)
        _end(book, TrialState.COMPLETE, [0.5])
    assert book.take() is NoTrial.DONE
    assert book.has_ended()


def test_trials_depend_on_their_numbers_and_not_on_who_asks(url: str, name: str) -> None:
    def values(book_of: list[StudyStore]) -> list[object]:
        found = []
        for book in book_of:
            given = book.take()
            assert isinstance(given, Assignment)
            found.append(given.values["patriarch.strictness"])
            _end(book, TrialState.COMPLETE, [0.5])
        return found

    alone = _book(url, _recipe(f"{name}-alone", "sampler=random"))
    together = [_book(url, _recipe(f"{name}-together", "sampler=random")) for _ in range(2)]
    found = values([alone] * 4)
    assert len(set(found)) == 4
    assert values(together * 2) == found
    assert values([_book(url, _recipe(f"{name}-seed", "sampler=random", "seed=1"))] * 4)[1:] != found[1:]


def test_interrupted_trial_is_tried_again_with_what_it_had_reported(url: str, name: str) -> None:
    book = _book(url, _recipe(name, "trials=1"))
    first = book.take()
    assert isinstance(first, Assignment)
    assert book.attempt is not None
    assert book.attempt.report(0.5, 3)
    assert not book.attempt.report(0.6, 3)
    book.attempt.note(INTERRUPTED, True)
    _end(book, TrialState.FAIL)
    assert not book.has_ended()
    again = book.take()
    assert isinstance(again, Assignment)
    assert (again.number, again.values) == (1, first.values)
    assert book.attempt.study.trials[1].intermediate_values == {3: 0.5}
    assert book.attempt.study.trials[1].system_attrs["retry_history"] == [0]
    _end(book, TrialState.COMPLETE, [0.7])
    assert book.take() is NoTrial.DONE
    assert _states(book) == ["FAIL", "COMPLETE"]


def test_trial_that_failed_by_itself_is_not_tried_again(url: str, name: str) -> None:
    book = _book(url, _recipe(name, "trials=1"))
    book.take()
    assert book.attempt is not None
    book.attempt.note(FAILED, "it diverged")
    _end(book, TrialState.FAIL)
    assert book.take() is NoTrial.DONE
    assert book.has_ended()


def test_trial_that_kills_its_workers_is_given_up(url: str, name: str) -> None:
    book = _book(url, _recipe(name, "trials=1", "retries=2"))
    for _ in range(3):
        assert isinstance(book.take(), Assignment)
        _end(book, TrialState.FAIL)
    assert book.take() is NoTrial.DONE
    assert _states(book) == ["FAIL"] * 3


def test_people_may_interrupt_a_trial_as_often_as_they_like(url: str, name: str) -> None:
    book = _book(url, _recipe(name, "trials=1", "retries=0"))
    for _ in range(3):
        assert isinstance(book.take(), Assignment)
        assert book.attempt is not None
        book.attempt.note(INTERRUPTED, True)
        _end(book, TrialState.FAIL)
    assert isinstance(book.take(), Assignment)


def test_trial_of_a_silent_worker_is_tried_again_by_another(url: str, name: str) -> None:
    lost: list[int] = []
    recipe = _recipe(name, "trials=1")
    dead = _book(url, recipe)
    living = StudyStore(open_storage(url, 60, 1), recipe, "digest", lambda trial: lost.append(trial.number))
    dead.take()
    turn = living.take()
    while turn is NoTrial.WAIT:
        turn = living.take()
    assert isinstance(turn, Assignment)
    assert turn.number == 1
    assert lost == [0]
    assert dead.attempt is not None  # it lived after all, but comes too late
    dead.attempt.note("lineage.generations", ["s/1"])
    assert not dead.attempt.report(0.5, 3)
    assert not dead.attempt.tell(TrialState.COMPLETE, [1.0])
    assert "lineage.generations" not in living.study.trials[0].user_attrs
    assert _states(living) == ["FAIL", "RUNNING"]


def test_trial_whose_worker_died_in_asking_is_not_waited_for(url: str, name: str) -> None:
    book = _book(url, _recipe(name, "trials=1"))
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        book.study.ask()
    assert isinstance(book.take(), Assignment)
    assert _states(book) == ["FAIL", "RUNNING"]


def test_grid_gives_each_point_once_to_whoever_asks(url: str, name: str) -> None:
    recipe = _recipe(name, "sampler=grid", space="strictness=0.5,0.75,1.0 temperature=1:2:0.5")
    assert num_trials(recipe.study) == 9
    books = [_book(url, recipe), _book(url, recipe)]
    points = []
    for turn in range(9):
        given = books[turn % 2].take()
        assert isinstance(given, Assignment)
        points.append(tuple(given.values.values()))
        if turn == 4:
            assert books[0].attempt is not None
            books[0].attempt.note(INTERRUPTED, True)
            _end(books[0], TrialState.FAIL)
            again = books[0].take()
            assert isinstance(again, Assignment)
            assert tuple(again.values.values()) == points[-1]
        _end(books[turn % 2], TrialState.COMPLETE, [0.5])
    assert len(set(points)) == 9
    assert [book.take() for book in books] == [NoTrial.DONE, NoTrial.DONE]


def test_no_more_trials_of_a_grid_are_run_than_asked_for(url: str, name: str) -> None:
    assert num_trials(_recipe(name, "sampler=grid", "trials=4", space="top_k=2..9").study) == 4
    assert num_trials(_recipe(name, "sampler=grid", "trials=40", space="top_k=2..9").study) == 8
    assert num_trials(_recipe(name).study) == 20


def test_study_of_other_makers_is_refused(url: str, name: str) -> None:
    optuna.create_study(storage=url, study_name=name)
    with pytest.raises(
        IntegrityError, match=rf"The study '{name}' in .* must be one that lineage began, but is"
    ):
        _book(url, _recipe(name))
    with pytest.raises(NotFoundError, match=rf"holds no study '{name}' of lineage"):
        load_study(open_storage(url, 60, 120), name)


def test_study_of_other_images_is_refused(url: str, name: str) -> None:
    recipe = _recipe(name)
    StudyStore(open_storage(url, 60, 120), recipe, "digest")
    with pytest.raises(IntegrityError, match="the images are others"):
        StudyStore(open_storage(url, 60, 120), recipe, "another")
