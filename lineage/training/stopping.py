"""Early stop: how long a generation's accuracy on the validation part has not risen."""

from collections.abc import Callable, Mapping, Sequence

from ignite.engine import Engine, Events

from lineage.formats import counted
from lineage.training.checkpoints import History

ACCURACY = "validation_accuracy"


def epochs_without_gain(records: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs since the highest validation accuracy, the first of equal ones.

    It depends on the metrics of the epochs alone, which every checkpoint holds, so that resuming needs no
    state of its own.

    Args:
        records: Metrics of all epochs so far; those without a validation are passed over.
    """
    accuracies = {epoch: record[ACCURACY] for epoch, record in enumerate(records) if ACCURACY in record}
    if not accuracies:
        return 0
    best = max(accuracies, key=lambda epoch: accuracies[epoch])
    return max(accuracies) - best


def is_validated(epoch: int, every: int, epochs: int) -> bool:
    """Return whether an epoch, which counts from 1, is to be validated: every few, and the last."""
    return epoch % every == 0 or epoch == epochs


class EarlyStop:
    """Ends a training whose validation accuracy has not risen for some epochs.

    Args:
        history: Metrics of all epochs so far.
        patience: Number of those epochs; None never ends it.
    """

    def __init__(self, history: History, patience: int | None) -> None:
        self._history = history
        self._patience = patience

    def is_due(self) -> bool:
        """Return whether training is to end."""
        return self._patience is not None and epochs_without_gain(self._history.epochs) >= self._patience

    def attach(self, trainer: Engine, notify: Callable[[str], None]) -> None:
        """End the training after an epoch, and tell so; to be attached after what saves the epoch."""

        @trainer.on(Events.EPOCH_COMPLETED)
        def _end(engine: Engine) -> None:
            if self.is_due() and engine.state.epoch != engine.state.max_epochs:
                passed = counted(epochs_without_gain(self._history.epochs), "epoch")
                notify(
                    f"stopped after epoch {engine.state.epoch}: no higher validation accuracy for {passed}"
                )
                engine.terminate()
