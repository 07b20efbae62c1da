import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lineage.errors import NotFoundError, UsageError
from lineage.training.devices import (
    derive_seed,
    describe_hardware,
    make_accelerator,
    share_of_machine,
)
from lineage.training.turns import on_main_process

TWO_PROCESSES = """
import sys
import time
from pathlib import Path
import torch
from torch import nn
from lineage.errors import NotFoundError
from lineage.processes import is_main_process
from lineage.training.devices import (
    make_accelerator,
)
from lineage.training.turns import in_turns, on_main_process, share_weights

accelerator = make_accelerator()
assert accelerator.num_processes == 2
asked = []
value = on_main_process(lambda: asked.append(1) or {"answer": 42})
assert value == {"answer": 42}
assert bool(asked) == is_main_process() == accelerator.is_main_process

def fail():
    raise NotFoundError("nothing here")

try:
    on_main_process(fail)
except NotFoundError as error:
    assert str(error) == "nothing here"
else:
    raise AssertionError("every rank must see the error")

def fetch():
    fetched = not place.exists()
    if fetched:
        time.sleep(0.3)
        place.touch()
    return fetched

place = Path(sys.argv[0]).with_name("fetched")
assert in_turns(fetch) == is_main_process()

def fail_on_one():
    if not is_main_process():
        raise NotFoundError("not on my disk")

try:
    in_turns(fail_on_one)
except NotFoundError as error:
    assert str(error) == "not on my disk"
else:
    raise AssertionError("every rank must see the error")

torch.manual_seed(accelerator.process_index)
network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
network[1].running_mean += accelerator.process_index
share_weights(network)
flat = torch.cat([value.flatten().float() for value in network.state_dict().values()])
everyone = accelerator.gather(flat.unsqueeze(0))
assert torch.equal(everyone[0], everyone[1])
print("done")
"""


def test_seed_is_a_hash_of_its_parts() -> None:
    seeds = {derive_seed("a", i, j) for i in range(30) for j in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("a", 1, 2) == derive_seed("a", 1, 2) != derive_seed("b", 1, 2)
    assert derive_seed("a", 1, 23) != derive_seed("a", 12, 3)


def test_precision_that_the_hardware_lacks_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"training\.precision must be one that the hardware has, but 'fp16'"
    ):
        make_accelerator("fp16")


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "1", "DeepSpeed"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "the compiler 'INDUCTOR'"),
    ],
)
def test_more_than_data_parallelism_is_refused(
    variable: str, value: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"data parallelism alone.*configured for {name}; set distributed"):
        make_accelerator()
    monkeypatch.setenv(variable, "no")
    assert make_accelerator().num_processes == 1


def test_precision_may_change_between_generations() -> None:
    assert make_accelerator("bf16").mixed_precision == "bf16"
    assert make_accelerator("fp32").mixed_precision == "no"


def test_main_process_alone_returns_and_raises() -> None:
    assert on_main_process(lambda: 7) == 7
    with pytest.raises(NotFoundError, match="gone"):
        on_main_process(_raise)


def test_hardware_names_what_speed_and_bits_depend_on() -> None:
    assert describe_hardware().keys() == {"device", "processes", "threads", "torch"}


def test_processes_that_train_apart_share_threads_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert [share_of_machine(index, 3) for index in range(3)] == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": device} for device in ("0", "3", "0")
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert share_of_machine(1, 2) == {}


def test_two_processes_share_results_errors_and_weights(
    run_on_two: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    done = run_on_two(str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2


def _raise() -> None:
    raise NotFoundError("gone")
