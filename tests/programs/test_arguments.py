"""Costs and objectives say which of their arguments does not fit, and what would."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import (
    Hinge,
    Instances,
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
    Recourse,
    TorchProgram,
    TwoStageProgram,
)
from diffusion_dfl.solvers import solve

D: dict[str, Any] = {"dtype": torch.float64}


def first(y: Tensor, z: Tensor) -> Tensor:
    return z.sum() + 0.1 * (z @ z)


def missing(y: Tensor, z: Tensor, u: Tensor) -> Tensor:
    return y - z - u


def bought(y: Tensor, z: Tensor, u: Tensor) -> Tensor:
    return 3.0 * u.sum()


TWO = TwoStageProgram(2, 2, Recourse(2, bought, missing, lower=0.0), smooth=first, lower=0.0)
ONE = TorchProgram(2, 2, smooth=first, hinges=Hinge(3.0, lambda y, z: y - z), lower=0.0)
PROGRAMS = {
    "one stage": ONE,
    "two stages": TWO,
    "newsvendor": Newsvendor(num_decisions=2),
    "power": PowerProgram(num_decisions=2),
    "portfolio": MeanVariancePortfolio(2),
    "allocation": ProductAllocation(2),
}


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, **D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    ("outcome", "decision", "message"),
    [
        (uniform(5, 3), uniform(5, 2), r"outcome has shape \(5, 3\); expected \(\.\.\., 2\)"),
        (uniform(5, 2), uniform(5, 3), r"decision has shape \(5, 3\); expected \(\.\.\., 2\)"),
        (uniform(5, 2), uniform(5), r"decision has shape \(5,\); expected \(\.\.\., 2\)"),
        (torch.ones((), **D), uniform(5, 2), r"outcome has shape \(\)"),
        (
            uniform(5, 7, 2),
            uniform(5, 2),
            r"outcome has shape \(5, 7, 2\) and decision has shape \(5, 2\): .*unsqueeze\(-2\)",
        ),
        (None, uniform(5, 2), "outcome is NoneType that holds no numbers"),
        (uniform(5, 2), "z", "decision is str that holds no numbers"),
    ],
)
def test_a_cost_names_the_argument_that_does_not_fit(
    name: str, outcome: Any, decision: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        PROGRAMS[name].cost(outcome, decision)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_cost_takes_arrays_lists_and_whole_numbers(name: str) -> None:
    program: Any = PROGRAMS[name]
    y = torch.tensor([[1, 2], [0, 1]])
    wanted = program.cost(y.double(), torch.ones(2, 2, **D))
    for given in (np.ones((2, 2)), [[1, 1], [1, 1]], torch.ones(2, 2, dtype=torch.long)):
        torch.testing.assert_close(program.cost(y.tolist(), given), wanted)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_objective_names_the_argument_that_does_not_fit(name: str) -> None:
    program: Program = PROGRAMS[name]
    y, weights, z = uniform(4, 3, 2), uniform(4, 3), uniform(4, 2)
    for bad, message in (
        ((y[..., :1], weights, z), r"scenarios have shape \(4, 3, 1\); expected \(B, M, 2\)"),
        ((y, weights[:, :2], z), r"weights have shape \(4, 2\); expected \(4, 3\)"),
        ((y, weights, z[:2]), r"z has shape \(2, 2\); expected \(4, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            program.objective(Instances.of(*bad[:2]), bad[2])


def test_the_second_stages_gradients_name_the_argument_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="scenarios have shape"):
        TWO.gradients(Instances.of(uniform(4, 3, 1)), uniform(4, 2))
    with pytest.raises(ValueError, match="z has shape"):
        TWO.gradient(Instances.of(uniform(4, 3, 2)), uniform(4, 3))


@pytest.mark.parametrize("part", ["smooth", "inequality", "equality"])
def test_a_recourse_that_takes_the_context_asks_for_it_by_name(part: str) -> None:
    parts: dict[str, Any] = {
        "smooth": lambda y, z, u, x: (1 + x**2).sum() * u.sum() + (u**2).sum(),
        "inequality": lambda y, z, u, x: y - z - u - x,
        "equality": lambda y, z, u, x: y - z - u - x,
    }
    recourse = Recourse(2, **{"smooth": bought, part: parts[part]})
    program = TwoStageProgram(2, 2, recourse, smooth=first)
    y = uniform(4, 3, 2)
    told = rf"recourse: {part}\(y, z, u, x\) takes the context.* pass context=\(B, d_x\)"
    for ask in (
        lambda: solve(program, y),
        lambda: DecisionLayer(program)(y),
        lambda: program.cost(y[:, 0], y[:, 0]),
    ):
        with pytest.raises(ValueError, match=told):
            ask()


def test_a_context_that_does_not_fit_is_named() -> None:
    recourse = Recourse(2, lambda y, z, u, x: x[0] * u.sum(), missing, lower=0.0)
    program = TwoStageProgram(2, 2, recourse, smooth=first)
    y = uniform(5, 2)
    for context, message in (
        (torch.ones(()), r"context has shape \(\); expected \(\.\.\., d_x\)"),
        (uniform(4, 1), r"context has shape \(4, 1\): their leading dimensions"),
        ("x", "context is str that holds no numbers"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            program.cost(y, y, context)
    assert program.cost(y, y, 1 + uniform(5, 1)).shape == (5,)
