"""Signals at awkward moments: while a run is opened or marked, repeatedly, to one of several processes."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from warm import WarmProcess, run_warm

import lineage
from lineage.display.progress import SilentReporter
from lineage.errors import UsageError
from lineage.processes import ENDING, interrupt_on_signals
from lineage.training.devices import process_timeout

IGNORED_AT_START = """
import os, signal
from lineage.processes import interrupt_on_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
interrupt_on_signals()
os.kill(os.getpid(), signal.SIGHUP)
print("lives")
"""
REPEATED = """
import os, signal
from lineage.processes import interrupt_on_signals, uninterrupted

def send(number):
    os.kill(os.getpid(), number)

interrupt_on_signals()
try:
    with uninterrupted():
        send(signal.{first})
        print("put off")
except KeyboardInterrupt:
    print("interrupted")
send(signal.SIGTERM)
send(signal.SIGHUP)
if "{first}" != "SIGINT":
    send(signal.SIGTERM)
send(signal.SIGINT)
print("undisturbed")
try:
    send(signal.SIGINT)
except KeyboardInterrupt:
    print("left")
"""
DROPPED = """
import os, signal, time, weakref
from lineage.processes import interrupt_on_signals

class Thing:
    pass

interrupt_on_signals()
try:
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.{number}))
    del thing  # Python drops what the callback raises
    print("dropped", flush=True)
    time.sleep(50)
except KeyboardInterrupt:
    print("interrupted")
for number in (signal.SIGTERM, signal.SIGINT):
    os.kill(os.getpid(), number)
print("undisturbed")
"""
IN_TRANSACTION = """
import os, signal, time
from sqlalchemy import create_engine, text
from lineage.processes import interrupt_on_signals
from lineage.registry.store.database import keep_transactions_whole

interrupt_on_signals()
keep_transactions_whole()
engine = create_engine("sqlite:///{file}", connect_args=dict(timeout=0))
try:
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (1)"))
        os.kill(os.getpid(), signal.{number})
        connection.execute(text("INSERT INTO t VALUES (2)"))
        connection.commit()
    time.sleep(50)
except KeyboardInterrupt:
    print("interrupted")
with engine.begin() as connection:
    connection.execute(text("INSERT INTO t VALUES (3)"))
    print(connection.execute(text("SELECT sum(x) FROM t")).scalar())
"""
LEAVING = """
import atexit, os, signal
from lineage.processes import interrupt_on_signals, leave_undisturbed
interrupt_on_signals()
atexit.register(print, "left")
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
atexit.register(os.kill, os.getpid(), signal.SIGHUP)
leave_undisturbed()
"""
STOPPED = """
import os, signal, sys
from lineage.errors import LostProcessError
from lineage.training.devices import make_accelerator, translated_process_errors
from lineage.training.turns import on_main_process
make_accelerator()
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGSTOP)
try:
    with translated_process_errors():
        on_main_process(lambda: "value")
        make_accelerator().wait_for_everyone()
except LostProcessError as error:
    print(error, flush=True)
    os._exit(1)
"""


def run_python(code: str) -> list[str]:
    done = run_warm(["-c", code], Path.cwd(), timeout=60)
    done.check_returncode()
    return done.stdout.splitlines()


def test_signal_that_is_ignored_stays_ignored() -> None:
    assert run_python(IGNORED_AT_START) == ["lives"]


def test_process_that_leaves_is_not_disturbed() -> None:
    assert run_python(LEAVING) == ["left"]


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_later_signals_do_not_disturb_and_a_third_interrupt_leaves(first: str) -> None:
    assert run_python(REPEATED.format(first=first)) == ["put off", "interrupted", "undisturbed", "left"]


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_interrupt_that_a_callback_drops_comes_again(number: str) -> None:
    assert run_python(DROPPED.format(number=number)) == ["dropped", "interrupted", "undisturbed"]


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_interrupt_waits_for_the_end_of_a_transaction(number: str, tmp_path: Path) -> None:
    code = IN_TRANSACTION.format(file=tmp_path / "transaction.db", number=number)
    assert run_python(code) == ["interrupted", "6"]


@pytest.fixture
def signals() -> Iterator[None]:
    """The command line's handlers of signals, for the time of a test."""
    before = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, ENDING)}
    interrupt_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Interrupt(SilentReporter):
    """A reporter that sends this process a signal when the first epoch starts."""

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        trainer.add_event_handler(Events.EPOCH_STARTED, os.kill, os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("moment", "reporter"), [("create_run", None), ("set_terminated", Interrupt())])
@pytest.mark.usefixtures("home", "signals")
def test_run_is_marked_though_a_signal_comes_while_it_is_opened_or_marked(
    moment: str,
    reporter: SilentReporter | None,
    tiny_settings: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = getattr(MlflowClient, moment)

    def send_signal(*arguments: Any, **options: Any) -> Any:
        if moment == "set_terminated":
            os.kill(os.getpid(), signal.SIGINT)
        result = original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGHUP)
        return result

    monkeypatch.setattr(MlflowClient, moment, send_signal)
    with pytest.raises(KeyboardInterrupt):
        lineage.grow("digits", generations=0, overrides=tiny_settings, reporter=reporter)
    client = MlflowClient()
    (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert run.info.status == "KILLED"


@pytest.mark.slow
def test_stopped_process_ends_the_others_in_time(free_port: Callable[[], int]) -> None:
    common = os.environ | {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LINEAGE_PROCESS_TIMEOUT": "8"}
    ranks = [
        WarmProcess(
            ["-c", STOPPED],
            Path.cwd(),
            common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        said, _ = ranks[0].communicate(timeout=120)
        assert ranks[0].returncode == 1
        assert said.startswith("All 2 processes must answer each other, but one has died or does not answer")
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf"])
def test_timeout_of_processes_is_a_positive_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAGE_PROCESS_TIMEOUT", text)
    with pytest.raises(UsageError, match=f"positive number of seconds, but is '{text}'"):
        process_timeout()
    monkeypatch.setenv("LINEAGE_PROCESS_TIMEOUT", "2.5")
    assert process_timeout() == timedelta(seconds=2.5)
