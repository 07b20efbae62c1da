"""Two processes, one of which is slower than a step may be: the others wait for it and are told so."""

import subprocess
from collections.abc import Callable

SLOW = """
import os
import time
import torch
from lineage.training.devices import make_accelerator
from lineage.training.turns import in_turns, on_main_process, share_state

accelerator = make_accelerator()
assert os.environ["SLURM_JOB_ID"] == "7"
assert os.environ["LOCAL_RANK"] == os.environ["RANK"]


def read(seconds, result):
    time.sleep(seconds)
    return result


assert on_main_process(lambda: read(5, "scanned")) == "scanned"
rank = accelerator.process_index
assert in_turns(lambda: read(5 * rank, rank)) == rank

network = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1 + accelerator.process_index, momentum=0.9)
network(torch.full((1, 2), 1.0 + accelerator.process_index)).sum().backward()
optimizer.step()
share_state(network, optimizer)
state = optimizer.state_dict()
assert state["param_groups"][0]["lr"] == 0.1
flat = torch.cat([network.weight.flatten(), state["state"][0]["momentum_buffer"].flatten()])
everyone = accelerator.gather(flat.detach().unsqueeze(0))
assert torch.equal(everyone[0], everyone[1])
assert everyone[0, 4:].eq(1).all()
print("done")
"""


def test_others_wait_longer_than_a_step_may_take_and_rank_0_shares_its_state(
    run_on_two: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    """In a job of SLURM whose variables do not describe them."""
    done = run_on_two("-c", SLOW, LINEAGE_PROCESS_TIMEOUT="4", SLURM_JOB_ID="7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2
    for rank in (0, 1):
        assert done.stderr.count(f"rank {rank} reads data or speaks to the registry; the other") >= 3
