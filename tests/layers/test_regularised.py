"""Linear programs: a warning where nothing is taught, and a regulariser that teaches."""

import itertools
import logging
from typing import Any

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import diffusion_dfl as ddfl
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, Program, Regulariser, TorchProgram
from diffusion_dfl.solvers import solve

D = {"dtype": torch.float64}


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, **D, generator=torch.Generator().manual_seed(seed))


def value(y: Tensor, z: Tensor) -> Tensor:
    return -(y @ z)


def knapsack(items: int, capacity: float) -> TorchProgram:
    weights = 0.5 + uniform(1, items, seed=3)
    return TorchProgram(
        items, items, smooth=value, lower=0.0, upper=1.0, matrix=weights, limit=capacity
    )


def grid_path(side: int) -> TorchProgram:
    """Shortest path from the first corner of a grid to the last, going right or down."""
    nodes = list(itertools.product(range(side), range(side)))
    arcs = [(a, b) for a in nodes for b in nodes if (b[0] - a[0], b[1] - a[1]) in ((0, 1), (1, 0))]
    flow = np.array([[(arc[0] == node) - (arc[1] == node) for arc in arcs] for node in nodes[:-1]])
    balance = np.zeros(len(nodes) - 1)
    balance[0] = 1.0
    return TorchProgram(
        len(arcs),
        len(arcs),
        smooth=lambda y, z: y @ z,
        lower=0.0,
        upper=1.0,
        equality_matrix=flow.astype(float),
        equality_value=balance,
    )


PROGRAMS = {"knapsack": lambda: knapsack(5, 2.0), "shortest path": lambda: grid_path(3)}


@pytest.mark.parametrize("kind", ["quadratic", "entropic"])
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_the_decision_is_clarabels_and_its_gradient_that_of_differences(
    name: str, kind: Any
) -> None:
    program = PROGRAMS[name]()
    weight = 0.3
    y = (0.5 + uniform(3, 4, program.num_outcomes)).requires_grad_()
    layer = DecisionLayer(program, regularise=Regulariser(weight, kind))
    decision = layer(y)
    given = program.constraints(y)
    for row in range(3):
        z = cp.Variable(program.num_decisions)
        sign = -1.0 if name == "knapsack" else 1.0
        cost = sign * (y[row].detach().numpy().mean(0) @ z)
        entropy = -cp.sum(cp.entr(z))
        cost += weight * (0.5 * cp.sum_squares(z) if kind == "quadratic" else entropy)
        limits = [z >= 0, z <= 1]
        if given.matrix.shape[1]:
            limits.append(given.matrix[0].numpy() @ z <= given.limit[0].numpy())
        if given.equality_matrix.shape[1]:
            limits.append(given.equality_matrix[0].numpy() @ z == given.equality_value[0].numpy())
        cp.Problem(cp.Minimize(cost), limits).solve(solver=cp.CLARABEL)
        assert np.allclose(decision[row].detach().numpy(), z.value, atol=1e-4)
    towards = uniform(3, program.num_decisions, seed=1)
    (decision * towards).sum().backward()
    step = 1e-6 * torch.randn(y.shape, **D, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        up, down = layer(y + step), layer(y - step)
    difference = float(((up - down) * towards).sum() / 2)
    assert float((y.grad * step).sum()) == pytest.approx(difference, rel=1e-4)


def test_a_kinked_program_keeps_its_kinks_beside_the_regulariser() -> None:
    program = TorchProgram(
        2, 2, hinges=[Hinge(3.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)], lower=0.0
    )
    y = uniform(4, 21, 2)
    soft = DecisionLayer(program, 0.0, regularise=Regulariser(1e-6))(y)
    assert torch.allclose(soft, solve(program, y).decision, atol=1e-4)
    firm = DecisionLayer(program, 0.0, regularise=Regulariser(10.0))(y)
    # Stationarity: 10 z = 3 P(y > z) - P(y <= z), at most 3.
    assert bool((firm <= 0.3 + 1e-9).all()) and bool((firm < soft).all())


def test_the_exact_rule_and_the_cost_are_those_of_the_program_as_stated() -> None:
    program = knapsack(5, 2.0)
    layer = DecisionLayer(program, regularise=Regulariser(0.5))
    y = uniform(3, 4, 5)
    assert torch.allclose(layer.solve(y, exact=True).decision, solve(program, y).decision)
    assert not torch.allclose(layer.solve(y).decision, solve(program, y).decision, atol=1e-2)
    assert layer.program is program


def test_a_layer_whose_decisions_never_move_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    program = TorchProgram(2, 2, smooth=value, lower=0.0, upper=1.0, matrix=[[1.0, 1.0]], limit=1.0)
    layer = DecisionLayer(program)
    with caplog.at_level(logging.WARNING):
        for seed in range(6):
            y = uniform(32, 5, 2, seed=seed).requires_grad_()
            layer(y).sum().backward()
            assert float(y.grad.abs().max()) == 0.0
    said = [record.getMessage() for record in caplog.records if "vertices" in record.getMessage()]
    assert len(said) == 1 and "regularise=Regulariser(" in said[0] and "SetScore" in said[0]
    caplog.clear()
    curved = DecisionLayer(program, regularise=Regulariser(1.0))
    with caplog.at_level(logging.WARNING):
        for seed in range(6):
            y = uniform(32, 5, 2, seed=seed).requires_grad_()
            curved(y).square().sum().backward()
            assert float(y.grad.abs().max()) > 0.0
    assert not [record for record in caplog.records if "vertices" in record.getMessage()]


@pytest.mark.slow
def test_training_on_a_linear_program_warns_and_with_the_remedy_it_gains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two items, room for one; values differ by a quadratic of x, and the predictor is linear."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 1))
    gap = x**2 - 0.1 + 0.05 * rng.standard_normal((400, 1))
    frame = pd.DataFrame(np.hstack([x, 1 + gap, np.ones((400, 1))]), columns=list("xab"))
    program: Program = TorchProgram(
        2, 2, smooth=value, lower=0.0, upper=1.0, matrix=[[1.0, 1.0]], limit=1.0
    )
    task = ddfl.task_from_frame("knapsack", program, frame, ["x"], ["a", "b"])
    settings = ddfl.TrainingSettings(epochs=6, batch_size=64, learning_rate=3e-3)
    fitted = ddfl.train(task, ddfl.GaussianPredictor, fit=settings, device="cpu")
    with caplog.at_level(logging.WARNING):
        ddfl.train(
            task,
            fitted.predictor,
            ddfl.Reparam(20, fit_weight=0.0),
            fit=None,
            train=settings,
            device="cpu",
        )
    assert "stand at vertices" in caplog.text
    caplog.clear()
    rule = ddfl.DecisionRule(20, regularise=Regulariser(1.0))
    with caplog.at_level(logging.WARNING):
        focused = ddfl.train(
            task,
            fitted.predictor,
            ddfl.Reparam(20),
            decision=rule,
            fit=None,
            train=settings,
            device="cpu",
        )
    assert "stand at vertices" not in caplog.text
    norms = [
        values["gradient_norm"]
        for _, values in focused.history["train"]
        if "gradient_norm" in values
    ]
    assert min(norms) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "weight=0.0 must be a positive number"),
        ((float("nan"),), "weight=nan"),
        ((1.0, "cubic"), "kind='cubic' is unknown"),
    ],
)
def test_regularisers_that_are_none_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regulariser(*arguments)


def test_an_entropy_needs_decisions_that_are_not_negative() -> None:
    program = TorchProgram(2, 2, smooth=value, lower=-1.0, upper=1.0)
    with pytest.raises(ValueError, match=r"lower=0\."):
        DecisionLayer(program, regularise=Regulariser(1.0, "entropic"))(uniform(2, 3, 2))
