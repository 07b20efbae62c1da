import json
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from lineage.cli import app


def test_preview_is_written_and_told(tmp_path: Path) -> None:
    out = tmp_path / "views.png"
    options = ["--images", "2", "--views", "3", "--set", "data.augment.cutmix=1", "--json"]
    arguments = ["data", "preview", "digits", "--out", str(out), *options]
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    told = json.loads(outcome.stdout)
    assert told["path"] == str(out)
    assert [len(image["views"]) for image in told["images"]] == [3, 3]
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 300
