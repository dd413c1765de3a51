"""A digest tells functions and objects apart by what they compute, and is the same in any process."""

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffusion_dfl as ddfl
from diffusion_dfl.training.fingerprint import fingerprint

SCRIPT = """
import torch
import diffusion_dfl as ddfl
from diffusion_dfl.training.fingerprint import fingerprint

PRICE = {"a": 2.0, "b": {3.0, "x", 5.0}}

class Cost:
    def __init__(self, slope):
        self.slope = slope
    def __call__(self, y, z):
        return (self.slope * z).sum() if len(y) in {1, 2, 7} else PRICE["a"] * z.sum()

program = ddfl.TorchProgram(2, 2, smooth=Cost(torch.ones(2)), hinges=[ddfl.Hinge(4.0, lambda y, z: y - z)])
print(fingerprint(program=program))
"""


def _scaled(by: Any) -> Callable[[float], float]:
    return lambda y: by * y


def _defaulted(y: float, by: float = 1.0) -> float:
    return by * y


class _Stateful:
    def __init__(self, by: Any) -> None:
        self.by = by

    def method(self, y: float) -> Any:
        return self.by * y


class _Sub(_Stateful):
    def method(self, y: float) -> Any:
        return self.by + y


def _with_default(by: float) -> Callable[..., float]:
    def made(y: float, *, by: float = by) -> float:
        return by * y

    return made


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda y: 2.0 * y, lambda y: 3.0 * y),
        (lambda y: y + 1.0, lambda y: y - 1.0),
        (lambda y: torch.sin(y), lambda y: torch.cos(y)),
        (_scaled(2.0), _scaled(3.0)),
        (_scaled(torch.ones(2)), _scaled(torch.tensor([1.0, 2.0]))),
        (_scaled(_scaled(2.0)), _scaled(_scaled(3.0))),
        (_with_default(1.0), _with_default(2.0)),
        (partial(_defaulted, by=2.0), partial(_defaulted, by=3.0)),
        (_Stateful(1.0), _Stateful(2.0)),
        (_Stateful(1.0).method, _Stateful(2.0).method),
        (_Stateful(1.0), _Sub(1.0)),
        ((1, 2), (2, 1)),
        (1, True),
        (0.0, -0.0),
        (torch.zeros(2), torch.zeros(2, 1)),
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        ({"a": 1}, {"a": 2}),
        (torch.nn.Dropout(0.1), torch.nn.Dropout(0.2)),
        (torch.relu, torch.sigmoid),
    ],
)
def test_what_computes_something_else_has_another_digest(one: Any, other: Any) -> None:
    assert fingerprint(value=one) != fingerprint(value=other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: _scaled(torch.ones(2)),
        lambda: partial(_defaulted, by=2.0),
        lambda: _Sub({"a": [1.0]}),
        lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5)),
        lambda: torch.func.vmap(_scaled(2.0)),
    ],
)
def test_what_is_made_twice_has_one_digest(make: Callable[[], Any]) -> None:
    assert fingerprint(value=make()) == fingerprint(value=make())


def test_a_value_of_the_module_that_a_function_reads_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cost(y: float) -> float:
        return SLOPE * y

    before = fingerprint(value=cost)
    monkeypatch.setitem(globals(), "SLOPE", 2.0)
    assert fingerprint(value=cost) != before


SLOPE = 1.0


def test_a_program_that_was_used_is_still_the_same() -> None:
    program = ddfl.TorchProgram(1, 1, hinges=[ddfl.Hinge(4.0, lambda y, z: (y - z) * z.exp() ** 0)])
    before = fingerprint(value=program)
    ddfl.solve(
        ddfl.TorchProgram(1, 1, hinges=[ddfl.Hinge(1.0, lambda y, z: z - y)]),
        torch.zeros(1, 1, 1).double(),
    )
    program.cost(torch.zeros(1).double(), torch.zeros(1).double())
    assert fingerprint(value=program) == before


@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path) -> None:
    script = tmp_path / "problem.py"
    script.write_text(SCRIPT)
    runs = [
        subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert len(runs[0].strip()) == 64
    assert runs[0] == runs[1]
    script.write_text(SCRIPT.replace("2.0,", "2.5,"))
    other = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert other.stdout != runs[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (_scaled(threading.Lock()), "by in cost is a _thread.lock"),
        (_scaled(torch.Generator()), "by in cost is a torch._C.Generator"),
        (_Stateful(np.array([object()])), "cost.by is a numpy.ndarray"),
    ],
)
def test_what_has_no_value_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ddfl.UserError, match=message):
        fingerprint(cost=value)
