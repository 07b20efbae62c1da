import json
import subprocess
import sys

LOADED = """
import json, sys
import lineage.growing.grow
before = sorted(sys.modules)
from lineage.models.networks import build_network
from lineage.data.datasets import DATASETS
build_network("resnet8", 10, (1, 8, 8))
print(json.dumps([before, sorted(sys.modules)]))
"""
SLOW = {"torchvision", "torchvision.models", "torchvision.ops", "sklearn", "torch._dynamo", "torch._inductor"}


def test_growing_imports_what_its_networks_and_data_need() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    imported, built = (set(names) for names in json.loads(done.stdout))
    assert "torch" in imported
    assert imported & SLOW == set()
    assert "lineage.models.exported" not in imported
    assert built & SLOW == set()
