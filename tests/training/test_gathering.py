from collections.abc import Callable
from typing import Any

from torch import ones

from lineage.training.gathering import gather_rows

GRADIENTS = """
import torch
from torch.nn.parallel import DistributedDataParallel

from lineage.training.devices import init_processes
from lineage.training.distillation import DISTILLATIONS
from lineage.training.student_loss import build_student_loss
from lineage.training.taught import TaughtNetwork, Terms
from lineage.training.terms import TERMS, build_term

init_processes()
torch.manual_seed(0)
rank = torch.distributed.get_rank()
images, labels, teacher = torch.randn(12, 6), torch.arange(12) % 5, torch.randn(12, 5)
maps = torch.randn(12, 4, 1, 1)
for name in DISTILLATIONS:
    gradients = []
    for rows, gather in ((slice(None), {"gather": lambda rows: rows}), (slice(6 * rank, 6 * rank + 6), {})):
        torch.manual_seed(1)
        network = torch.nn.Linear(6, 5)
        loss = build_student_loss(name, {}, label_weight=1, loss_weight=2, temperature=2, **gather)
        wrapped = DistributedDataParallel(network) if not gather else network
        loss(wrapped(images[rows]), labels[rows], teacher[rows]).backward()
        gradients.append(network.weight.grad)
    torch.testing.assert_close(*gradients)
for name in (name for name in TERMS if name != "prior"):  # its positions differ between processes
    gradients = []
    for rows in (slice(None), slice(6 * rank, 6 * rank + 6)):
        torch.manual_seed(1)
        whole = rows == slice(None)
        layers = torch.nn.Linear(6, 20), torch.nn.Unflatten(1, (5, 2, 2)), torch.nn.Flatten()
        network = torch.nn.Sequential(*layers, torch.nn.Linear(20, 5))
        given = {"head": torch.nn.Linear(5, 5)}
        if whole:
            given["gather"] = lambda rows: rows
        term = build_term(name, (5, 2, 2), (4, 1, 1), **given)
        terms = Terms([term], [3.0], ["1"])
        taught = TaughtNetwork(network, terms)
        wrapped = taught if whole else DistributedDataParallel(taught)
        shown = maps[rows, :1] if name == "explanation" else maps[rows]
        logits, value = wrapped(images[rows], [shown], teacher[rows])
        (value + logits.mean()).backward()
        gradients.append([parameter.grad for parameter in taught.parameters()])
    torch.testing.assert_close(*gradients)
"""


def test_losses_of_two_processes_have_the_gradient_of_the_whole_batch(
    run_on_two: Callable[..., Any],
) -> None:
    done = run_on_two("-c", GRADIENTS)
    assert done.returncode == 0, done.stderr


def test_rows_of_one_process_are_left_as_they_are() -> None:
    rows = ones(3, 2)
    assert gather_rows(rows) is rows
