import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

import lineage
from lineage.models.networks import build_network


def test_exported_files_are_named(
    home: Path, call_main: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    save_file(build_network("resnet8", 10, (1, 8, 8)).state_dict(), "weights.safetensors")
    candidate = lineage.Candidate(network="resnet8", weights="weights.safetensors")
    lineage.adopt("digits", candidate, data="digits")
    export = ("export", "models:/digits/1", "--to", "safetensors")
    assert (
        "is in first: config.json, model.safetensors, network.py; its" in call_main(*export, "first").stdout
    )
    told = json.loads(call_main(*export, "second", "--json").stdout)
    assert (told["folder"], told["form"], told["tolerance"]) == ("second", "safetensors", 1e-4)
    assert call_main(*export, "second").returncode == 2
