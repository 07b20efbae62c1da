import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lineage.errors import IntegrityError, NotFoundError, RegistryError, UsageError
from lineage.studies.database import (
    check_url,
    only_process,
    open_storage,
    require_database,
    safe_url,
    translated_errors,
)


def test_mlflows_database_is_refused(home: Path) -> None:
    before = (home / "mlflow.db").read_bytes()
    with pytest.raises(IntegrityError, match="is another program's, such as MLflow's, which would"):
        open_storage("sqlite:///mlflow.db")
    assert (home / "mlflow.db").read_bytes() == before


def test_database_of_studies_is_opened_again(url: str) -> None:
    open_storage(url)
    assert open_storage(url).get_all_studies() is not None


def test_passwords_are_not_told() -> None:
    assert safe_url("postgresql://me:secret@host/studies") == "postgresql://me:***@host/studies"
    with pytest.raises(UsageError) as refused:
        check_url("postgresq://me:secret@host/studies", 1)
    assert "secret" not in str(refused.value)


def test_error_of_a_database_is_a_sentence_without_its_password() -> None:
    url = "postgresql+psycopg2://me:secret@127.0.0.1:1/studies"
    with (
        pytest.raises(RegistryError, match="must be reachable") as refused,
        translated_errors(url),
    ):
        raise OSError(f"cannot open {url}")
    assert "secret" not in str(refused.value)


@pytest.mark.usefixtures("home")
def test_file_that_is_not_there_is_not_read() -> None:
    with pytest.raises(NotFoundError, match=r"There is no database of studies sqlite:///studies.db; name"):
        require_database("sqlite:///studies.db")


@pytest.mark.usefixtures("home")
def test_lock_of_a_study_is_free_again_and_no_other_studys() -> None:
    url = "sqlite:///studies.db"
    with (
        only_process(url, "s"),
        only_process(url, "t"),
        pytest.raises(IntegrityError, match="takes one process"),
        only_process(url, "s"),
    ):
        pass
    with only_process(url, "s"):
        pass


FORKING = """
import os, time
from lineage.studies.database import only_process
with only_process("sqlite:///studies.db", "s"):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    else:
        print(child, flush=True)
        os.kill(os.getpid(), 9)
"""


@pytest.mark.usefixtures("home")
def test_lock_of_a_killed_process_is_not_kept_by_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert process.wait() == -signal.SIGKILL
            with only_process("sqlite:///studies.db", "s"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
