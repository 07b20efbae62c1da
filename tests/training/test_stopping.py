import pytest
from ignite.engine import Engine, Events

from lineage.training.checkpoints import History
from lineage.training.stopping import EarlyStop, epochs_without_gain, is_validated


@pytest.mark.parametrize(
    ("accuracies", "epochs"),
    [
        ([], 0),
        ([0.1], 0),
        ([0.1, 0.2, 0.2, 0.15], 2),  # an equal accuracy is no gain
        ([0.1, None, 0.1, None], 2),
        ([None, 0.3, None, 0.4, None], 0),
        ([0.5, 0.4, 0.6], 0),
    ],
)
def test_epochs_without_gain_count_from_the_best_to_the_last_validation(
    accuracies: list[float | None], epochs: int
) -> None:
    records = [{"lr": 1.0} | ({} if a is None else {"validation_accuracy": a}) for a in accuracies]
    assert epochs_without_gain(records) == epochs


def test_validation_is_due_every_few_epochs_and_after_the_last() -> None:
    assert [epoch for epoch in range(1, 9) if is_validated(epoch, 3, 8)] == [3, 6, 8]


@pytest.mark.parametrize(("epochs", "ended", "told"), [(5, 3, True), (3, 3, False), (2, 2, False)])
def test_training_ends_early_and_tells_so_before_its_last_epoch_alone(
    epochs: int, ended: int, told: bool
) -> None:
    history, lines = History(), list[str]()
    trainer = Engine(lambda _engine, _batch: None)
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: history.epochs.append({"validation_accuracy": 0.5})
    )
    EarlyStop(history, 2).attach(trainer, lines.append)
    trainer.run([0], max_epochs=epochs)
    assert trainer.state.epoch == ended
    expected = ["stopped after epoch 3: no higher validation accuracy for 2 epochs"]
    assert lines == (expected if told else [])
