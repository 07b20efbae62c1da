import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def test_family_is_packed_and_unpacked(
    home: Path,
    call_main: Callable[..., "subprocess.CompletedProcess[str]"],
    tiny: Callable[..., list[str]],
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert call_main("grow", "digits", "--generations", "1", *tiny()).returncode == 0
    packed = call_main("pack", "digits", "digits.zip")
    assert packed.stdout == "digits, 2 versions and 2 runs, is in digits.zip.\n"
    assert call_main("pack", "digits", "texts", "--without-weights", "--json").returncode == 0
    tree = call_main("tree", "digits").stdout
    for file, missing in (("digits.zip", False), ("texts", True)):
        place = home / f"other-{missing}"
        place.mkdir()
        (place / "mlflow.db").write_bytes(empty_database.read_bytes())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
        outcome = call_main("unpack", file)
        assert outcome.stdout.startswith("digits: 2 versions and 2 runs added.\n")
        assert ("The file has no weights" in outcome.stdout) == missing
        shown = call_main("tree", "digits")
        assert shown.stdout == tree
        assert ("weights of digits are not in this store" in shown.stderr) == missing
        assert call_main("doctor", "digits").returncode == (4 if missing else 0)
        assert call_main("unpack", file).returncode == 4
        again = json.loads(call_main("unpack", file, "--merge", "--json").stdout)
        assert (again["added"], again["held"]) == ([], 2)
