"""A program that has an ``Accelerator`` of its own finds it as it was after it has called ``lineage``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

import lineage
from lineage.errors import LineageError

CALLS: dict[str, Callable[[], Any]] = {
    "evaluate": lambda: lineage.evaluate("models:/digits/2"),
    "diff": lambda: lineage.diff("models:/digits/1", "models:/digits/2"),
    "ensemble": lambda: lineage.ensemble(["models:/digits/1", "models:/digits/2"]),
    "transfer": lambda: lineage.transfer("models:/digits/1", "digits"),
    "study": lambda: lineage.study(
        "digits", name="s", trials=1, overrides=["training.epochs=0"], space=["temperature=1,4"]
    ),
}


def states() -> list[dict[str, Any]]:
    return [dict(state._shared_state) for state in (PartialState, AcceleratorState, GradientState)]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for state in (PartialState, AcceleratorState, GradientState):
        state._shared_state.clear()
    return Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4)


def test_accelerator_of_the_host_program_is_as_before(
    host: Accelerator, home: Path, tiny_settings: tuple[str, ...]
) -> None:
    before = states()

    def require_bf16() -> None:
        assert states() == before
        assert host.mixed_precision == host.state.mixed_precision == "bf16"
        assert host.gradient_accumulation_steps == host.gradient_state.num_steps == 4
        with host.autocast():
            assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16

    lineage.grow("digits", overrides=[*tiny_settings, "training.epochs=1"], generations=1)
    require_bf16()
    for name, call in CALLS.items():
        call()
        assert states() == before, name
    require_bf16()


def test_accelerator_of_the_host_program_is_as_before_where_a_call_fails(
    host: Accelerator, home: Path
) -> None:
    before = states()
    with pytest.raises(LineageError):
        lineage.grow("digits", overrides=["training.precision=fp16"])
    assert states() == before
    assert host.mixed_precision == "bf16"


def test_program_without_an_accelerator_has_none_afterwards(
    monkeypatch: pytest.MonkeyPatch, home: Path, tiny_settings: tuple[str, ...]
) -> None:
    for state in (PartialState, AcceleratorState, GradientState):
        state._shared_state.clear()
    lineage.grow("digits", overrides=[*tiny_settings, "training.epochs=0"], generations=0)
    assert states() == [{}, {}, {}]
