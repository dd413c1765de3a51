"""What is taken for numbers and sizes, and how the rest is refused: by the argument's name and value."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import (
    Hinge,
    Recourse,
    Regulariser,
    TorchProgram,
    TwoStageProgram,
    conditional_value_at_risk,
)
from diffusion_dfl.solvers import solve

D: dict[str, Any] = {"dtype": torch.float64}
REFUSED = {
    "text": "0",
    "texts": ["0", "1"],
    "text among objects": np.array(["0", 1.0], dtype=object),
    "bytes": b"0",
    "a dict": {"a": 1},
    "a set": {1.0},
    "a complex number": 1 + 2j,
    "a complex tensor": torch.tensor(1j),
    "none in a list": [0.0, None],
    "ragged rows": [[1.0], [1.0, 2.0]],
}


def square(y: Tensor, z: Tensor) -> Tensor:
    return ((z - y) ** 2).sum()


def settled(y: Tensor, z: Tensor, u: Tensor) -> Tensor:
    return ((z - u) ** 2).sum()


one_stage = partial(TorchProgram, 2, 2, square)
STATED: dict[str, Callable[[Any], Any]] = {
    "lower": lambda v: one_stage(lower=v),
    "upper": lambda v: one_stage(upper=v),
    "matrix": lambda v: one_stage(matrix=v, limit=1.0),
    "limit": lambda v: one_stage(matrix=[[1.0, 1.0]], limit=v),
    "equality_matrix": lambda v: one_stage(equality_matrix=v, equality_value=1.0),
    "equality_value": lambda v: one_stage(equality_matrix=[[1.0, 1.0]], equality_value=v),
    "recourse: lower": lambda v: Recourse(2, settled, lower=v),
    "recourse: upper": lambda v: Recourse(2, settled, upper=v),
    "hinge <lambda>: coefficient": lambda v: Hinge(v, lambda y, z: y - z),
    "level": lambda v: conditional_value_at_risk(lambda y, z: y @ z, v, 2, 2),
    "risk_weight": lambda v: conditional_value_at_risk(
        lambda y, z: y @ z, 0.5, 2, 2, risk_weight=v
    ),
    "weight": lambda v: Regulariser(v),
    "scenarios": lambda v: solve(one_stage(), v),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("name", STATED)
def test_what_is_no_numbers_is_refused_by_the_name_of_the_argument(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{re.escape(name)} is .*pass "):
        STATED[name](value)


def test_a_list_of_learned_tensors_would_lose_their_gradient_and_is_refused() -> None:
    value = [torch.ones((), requires_grad=True), torch.zeros(())]
    for name in ("lower", "limit", "recourse: upper", "hinge <lambda>: coefficient"):
        with pytest.raises(TypeError, match=rf"^{re.escape(name)} is list .*torch\.stack"):
            STATED[name](value)


def test_the_value_is_shown_and_no_limit_is_said_to_be_infinite() -> None:
    with pytest.raises(TypeError, match="lower is str that holds no numbers: '0'; pass a tensor"):
        one_stage(lower="0")
    with pytest.raises(TypeError, match=r"\[0, None\].*no limit is inf or -inf, not None"):
        Recourse(2, settled, lower=[0, None])
    with pytest.raises(TypeError, match="rows of different lengths"):
        one_stage(matrix=[[1.0], [1.0, 2.0]], limit=1.0)


def test_a_bound_of_the_recourse_that_is_no_number_is_named_with_its_entry() -> None:
    with pytest.raises(ValueError, match="recourse: upper is NaN at entry 1; .*inf for no bound"):
        Recourse(2, settled, upper=[1.0, float("nan")])
    with pytest.raises(ValueError, match="lower is above upper at entry 1, 3 > 2"):
        Recourse(2, settled, lower=[0.0, 3.0], upper=2.0)


SIZED: dict[str, Callable[[Any], Any]] = {
    "num_decisions": lambda v: TorchProgram(v, 2, square),
    "num_outcomes": lambda v: TorchProgram(2, v, square),
    "num_inequalities": lambda v: one_stage(inequality=lambda x, z: z - 2.0, num_inequalities=v),
    "recourse: num_decisions": lambda v: Recourse(v, settled),
    "two stages: num_decisions": lambda v: TwoStageProgram(v, 2, Recourse(2, settled)),
    "two stages: num_outcomes": lambda v: TwoStageProgram(2, v, Recourse(2, settled)),
    "tail: num_decisions": lambda v: conditional_value_at_risk(lambda y, z: y @ z, 0.5, v, 2),
}


@pytest.mark.parametrize("size", [np.int64(2), np.int32(2), torch.tensor(2), np.array(2)])
@pytest.mark.parametrize("name", SIZED)
def test_an_integer_of_numpy_or_torch_is_a_size(name: str, size: Any) -> None:
    made = SIZED[name](size)
    kept = (
        [made.num_decisions]
        if isinstance(made, Recourse)
        else [made.num_decisions, made.num_outcomes]
    )
    assert all(type(each) is int for each in kept)


@pytest.mark.parametrize("size", [2.0, 2.5, np.float64(2.0), float("nan"), "2", None, True, [2]])
@pytest.mark.parametrize("name", SIZED)
def test_a_size_that_is_no_integer_is_refused_by_name_and_value(name: str, size: Any) -> None:
    told = f"{name.split(': ')[-1]}={size!r} is {type(size).__name__}; it must be an integer"
    with pytest.raises(TypeError, match=re.escape(told)):
        SIZED[name](size)


@pytest.mark.parametrize("name", SIZED)
def test_a_size_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name.split(': ')[-1]}=-1 must be an integer >="):
        SIZED[name](-1)


@pytest.mark.parametrize("value", ["z.sum()", 3])
def test_what_is_no_function_is_refused_when_the_program_is_made(value: Any) -> None:
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("smooth", lambda: TorchProgram(2, 2, smooth=value)),
        ("inequality", lambda: one_stage(inequality=value, num_inequalities=1)),
        ("recourse: smooth", lambda: Recourse(2, value)),
        ("recourse: inequality", lambda: Recourse(2, settled, inequality=value)),
        ("recourse: equality", lambda: Recourse(2, settled, equality=value)),
        ("loss", lambda: conditional_value_at_risk(value, 0.5, 2, 2)),
    ]
    for name, state in parts:
        with pytest.raises(TypeError, match=rf"^{name}={re.escape(repr(value))} is no function"):
            state()
    with pytest.raises(TypeError, match=re.escape(f"hinges hold {value!r}; make it Hinge(")):
        one_stage(hinges=value)
