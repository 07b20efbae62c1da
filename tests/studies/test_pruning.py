"""Trials are compared with others at the same generation and epoch."""

import optuna
import pytest
from ignite.engine import Engine, Events
from optuna.storages import RDBStorage

from lineage.recipe import load_recipe
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.pruning import Pruning
from lineage.studies.running_trial import RunningTrial
from lineage.studies.samplers import make_pruner
from lineage.studies.trial_record import NoRecord

EPOCHS = 2


@pytest.fixture
def storage() -> RDBStorage:
    """An empty database in memory."""
    return RDBStorage("sqlite://")


def _study(storage: RDBStorage, pruner: optuna.pruners.BasePruner, rows: list[list[float]]) -> optuna.Study:
    """A study whose complete trials reported ``rows``, from the first epoch of generation 1 on."""
    study = optuna.create_study(storage=storage, pruner=pruner, direction="maximize")
    for row in rows:
        trial = study.ask()
        for place, value in enumerate(row):
            trial.report(value, EPOCHS + 1 + place)
        study.tell(trial, row[-1])
    return study


def _trial(study: optuna.Study, storage: RDBStorage, values: list[float]) -> RunningTrial:
    trial = RunningTrial(study.ask(), storage)
    for place, value in enumerate(values):
        assert trial.report(value, EPOCHS + 1 + place)
    return trial


def test_early_epoch_of_a_student_is_not_excused_by_its_teacher(storage: RDBStorage) -> None:
    median = optuna.pruners.MedianPruner(n_startup_trials=1)
    study = _study(storage, median, [[0.5, 0.9, 0.6, 0.9]] * 3)
    weak = _trial(study, storage, [0.5, 0.95, 0.3])
    assert not weak.trial.should_prune()  # Optuna's own question: its best was good
    assert weak.is_hopeless(2 * EPOCHS + 1)
    good = _trial(study, storage, [0.5, 0.95, 0.7])
    assert not good.is_hopeless(2 * EPOCHS + 1)


def test_early_epoch_is_not_held_against_later_ones_of_others(storage: RDBStorage) -> None:
    median = optuna.pruners.MedianPruner(n_startup_trials=1)
    study = _study(storage, median, [[0.5, 0.9, 0.6, 0.9]] * 3)
    assert not _trial(study, storage, [0.55]).is_hopeless(EPOCHS + 1)
    assert _trial(study, storage, [0.45]).is_hopeless(EPOCHS + 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("percentile", "{percentile=50.0,n_startup_trials=1}"),
        ("successive-halving", "{min_resource=1,reduction_factor=2}"),
        ("hyperband", "{min_resource=1,max_resource=6,reduction_factor=7}"),
        ("patient", "{patience=0}"),
    ],
)
def test_pruners_see_steps_as_they_are(name: str, options: str, storage: RDBStorage) -> None:
    study = _study(storage, optuna.pruners.NopPruner(), [])
    settings = [f"study.pruner={name}", f"study.pruner_options={options}"]
    study.pruner = make_pruner(load_recipe("digits", settings).study)
    for _ in range(4):
        good = _trial(study, storage, [0.8])
        good.is_hopeless(EPOCHS + 1)
        study.tell(good.trial, 0.8)
    weak = _trial(study, storage, [0.5])
    hopeless = weak.is_hopeless(EPOCHS + 1)
    if name == "patient":
        assert weak.report(0.4, EPOCHS + 2)
        hopeless = weak.is_hopeless(EPOCHS + 1)
    assert hopeless


def test_epoch_that_is_not_validated_is_not_judged() -> None:
    seen: list[float] = []

    class Record(NoRecord):
        def report(self, _metric: str, value: float, _step: int) -> None:
            seen.append(value)

        def is_hopeless(self, _first: int) -> bool:
            return False

    trainer = Engine(lambda _engine, _batch: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def _measure(engine: Engine) -> None:
        engine.state.metrics = {"validation_accuracy": 0.5} if engine.state.epoch == 2 else {}

    Pruning(Record(), OBJECTIVES["accuracy"], 3, 1).attach(trainer, 1)
    trainer.run([0], max_epochs=3)
    assert seen == [0.5]


def test_nothing_is_pruned_without_a_pruner_or_a_step(storage: RDBStorage) -> None:
    study = _study(storage, optuna.pruners.NopPruner(), [[0.9, 0.9]] * 3)
    assert not _trial(study, storage, [0.1]).is_hopeless(EPOCHS + 1)
    study.pruner = optuna.pruners.ThresholdPruner(lower=1.1)
    assert not _trial(study, storage, []).is_hopeless(EPOCHS + 1)
