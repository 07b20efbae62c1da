import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from records import small_record

from lineage.registry.packing.record import record_text


def test_report_of_a_text_is_drawn_and_told(
    home: Path, call_main: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    text = record_text(small_record(seeds=1, generations=1))
    (home / "fruit.json").write_text(text, encoding="utf-8")
    outcome = call_main("report", "fruit.json", "--out", "drawn")
    assert outcome.stdout == "The report of fruit is in drawn/report.html.\n"
    assert "95 % intervals" in (home / "drawn" / "report.html").read_text(encoding="utf-8")
    found = json.loads(call_main("report", "fruit.json", "--json").stdout)
    assert (found["names"], found["run_id"]) == (["fruit"], "")
    assert found["files"][0] == "fruit-report/report.html"
    missing = call_main("report", "missing.json")
    assert (missing.returncode, missing.stdout) == (3, "")
