import io

from ignite.engine import Engine, Events
from rich.console import Console

from lineage.display.progress import Bar, ConsoleReporter, WorkerReporter, epoch_line
from lineage.registry.family.family import Version

RECORD = {"train_loss": 1.25, "images_per_second": 1234.5, "validation_accuracy": 0.875}


def test_epoch_line_names_loss_accuracy_and_speed() -> None:
    assert epoch_line(RECORD) == "loss 1.250, validation accuracy 87.50%, 1,234 images/s"


def test_epoch_line_without_validation_leaves_it_out() -> None:
    record = {"train_loss": 1.25, "images_per_second": 10.0}
    assert epoch_line(record) == "loss 1.250, 10 images/s"


def test_reporter_writes_plain_lines_where_there_is_no_terminal() -> None:
    text = _watch(terminal=False)
    assert text.splitlines() == [
        "generation 1: epoch 1/2, loss 1.250, validation accuracy 87.50%, 1,234 images/s",
        "generation 1: epoch 2/2, loss 1.250, validation accuracy 87.50%, 1,234 images/s",
        "generation 1: registered models:/[red]x/4, test accuracy 50.00%",
        "generation 1: models:/[red]x/4 holds it already, not trained again",
    ]


def test_reporter_notices_in_a_line() -> None:
    output = io.StringIO()
    ConsoleReporter(Console(file=output)).notice("[red]x is missing")
    assert output.getvalue() == "[red]x is missing\n"


def test_reporter_draws_a_bar_on_a_terminal() -> None:
    text = _watch(terminal=True)
    assert "generation 1" in text
    assert "validation accuracy 87.50%" in text
    assert "ETA" in text
    assert "registered models:/[red]x/4" in text


def test_reporter_tells_that_a_generation_is_resumed() -> None:
    output = io.StringIO()
    trainer = _trainer()
    trainer.load_state_dict({"epoch": 1, "epoch_length": 3, "max_epochs": 2})
    with ConsoleReporter(Console(file=output, width=100)) as reporter:
        reporter.watch(trainer, 1, 2)
        trainer.run(range(3), max_epochs=2)
    assert output.getvalue().startswith("generation 1: resumed after epoch 1 of 2\n")


def test_bars_of_other_processes_have_a_row_each_until_they_are_forgotten() -> None:
    output = io.StringIO()
    with ConsoleReporter(Console(file=output, width=120, force_terminal=True)) as reporter:
        reporter.show(Bar("generation 0", "epoch", 2, 1), "seed 3")
        reporter.show(Bar("generation 0", "epoch", 2, 2), "seed 4")
        reporter.show(Bar("generation 1", "epoch", 5, 3, "loss 1.250"), "seed 3")
        tasks = {task.description: task for task in reporter._progress.tasks}
        assert tasks.keys() == {"seed 3: generation 1", "seed 4: generation 0"}
        assert (tasks["seed 3: generation 1"].completed, tasks["seed 3: generation 1"].total) == (3, 5)
        reporter.forget("seed 4")
        assert [task.description for task in reporter._progress.tasks] == ["seed 3: generation 1"]
    assert "loss 1.250" in output.getvalue()


def test_worker_sends_bars_where_they_are_drawn_and_epochs_as_lines_elsewhere() -> None:
    cases: list[list[Bar] | None] = [[], None]
    for sent in cases:
        output = io.StringIO()
        reporter = WorkerReporter(Console(file=output), None if sent is None else sent.append)
        trainer = _trainer()
        reporter.watch(trainer, 1, 2)
        trainer.run(range(3), max_epochs=2)
        if sent is None:
            assert output.getvalue().count("generation 1: epoch ") == 2
        else:
            assert output.getvalue() == ""
            assert sent[-1] == Bar("generation 1", "epoch", 2, 2, epoch_line(RECORD))


def _watch(terminal: bool) -> str:
    output = io.StringIO()
    trainer = _trainer()
    version = Version("[red]x", 4, generation=1, metrics={"test_accuracy": 0.5})
    with ConsoleReporter(Console(file=output, width=100, force_terminal=terminal)) as reporter:
        reporter.watch(trainer, 1, 2)
        trainer.run(range(3), max_epochs=2)
        reporter.completed(version)
        reporter.pulled(version)
    return output.getvalue()


def _trainer() -> Engine:
    trainer = Engine(lambda _engine, _batch: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def _record(engine: Engine) -> None:
        engine.state.metrics = RECORD

    return trainer
