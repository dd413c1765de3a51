"""Tensors and modules of a program that require a gradient get it, by differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diffusion_dfl as ddfl
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, TorchProgram
from diffusion_dfl.solvers import solve

D = {"dtype": torch.float64}
ONE = torch.ones(1, 3, **D)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, **D, generator=torch.Generator().manual_seed(seed))


def square(y: Tensor, z: Tensor) -> Tensor:
    return ((z - y) ** 2).sum()


HINGES = [Hinge(4.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)]

#: Program of a parameter, with the parameter's value.
PARTS: dict[str, tuple[Callable[[Tensor], TorchProgram], list[float]]] = {
    "limit": (lambda p: TorchProgram(3, 3, smooth=square, matrix=ONE, limit=p), [0.7]),
    "matrix": (
        lambda p: TorchProgram(3, 3, smooth=square, matrix=p.view(1, 3), limit=0.7),
        [1.0, 1.2, 0.8],
    ),
    "lower": (lambda p: TorchProgram(3, 3, smooth=square, lower=p), [0.6, 0.1, 0.9]),
    "upper": (lambda p: TorchProgram(3, 3, smooth=square, upper=p), [0.2, 0.9, 0.3]),
    "bounds of a coupled cost": (
        lambda p: TorchProgram(
            3, 3, smooth=lambda y, z: square(y, z) + z.sum() ** 2, lower=p, upper=1.0
        ),
        [0.6, 0.0, -0.2],
    ),
    "equality": (
        lambda p: TorchProgram(
            3, 3, smooth=square, lower=0.0, equality_matrix=ONE, equality_value=p
        ),
        [1.1],
    ),
    "inequality": (
        lambda p: TorchProgram(
            3,
            3,
            smooth=square,
            inequality=lambda x, z: ((z * p) @ z - 0.3).reshape(1),
            num_inequalities=1,
        ),
        [1.0, 2.0, 0.5],
    ),
    "risk aversion": (
        lambda p: TorchProgram(3, 3, smooth=lambda y, z: p[0] * (z @ z) - y @ z, lower=0.0),
        [1.3],
    ),
    "coefficient": (
        lambda p: TorchProgram(
            3,
            3,
            smooth=lambda y, z: 0.1 * (z @ z),
            hinges=[Hinge(p, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)],
        ),
        [4.0, 2.0, 3.0],
    ),
    "argument": (
        lambda p: TorchProgram(
            3,
            3,
            smooth=lambda y, z: 0.1 * (z @ z),
            hinges=[Hinge(4.0, lambda y, z: y - p * z), Hinge(1.0, lambda y, z: z - y)],
            matrix=ONE,
            limit=1.2,
        ),
        [1.1, 0.9, 0.8],
    ),
    "argument, as many as decide": (
        lambda p: TorchProgram(
            3, 3, hinges=[Hinge(4.0, lambda y, z: y * p - z), Hinge(1.0, lambda y, z: z - y * p)]
        ),
        [1.1, 0.9, 0.8],
    ),
}


@pytest.mark.parametrize("curvature", ["convolved", "saa"])
@pytest.mark.parametrize("name", list(PARTS))
def test_the_gradient_of_a_part_is_that_of_differences(name: str, curvature: Any) -> None:
    make, values = PARTS[name]
    y, towards = uniform(4, 9, 3), uniform(4, 3, seed=1)
    parameter = torch.tensor(values, **D, requires_grad=True)

    def loss(p: Tensor) -> Tensor:
        layer = DecisionLayer(make(p), curvature=curvature)
        return (layer(y) * towards).sum()

    loss(parameter).backward()
    assert parameter.grad is not None
    step = 1e-5
    for index in range(len(values)):
        shift = torch.zeros_like(parameter).detach()
        shift[index] = step
        with torch.no_grad():
            up, down = loss(parameter + shift), loss(parameter - shift)
        difference = float(up - down) / (2 * step)
        assert float(parameter.grad[index]) == pytest.approx(difference, rel=1e-5, abs=1e-6)


def test_a_module_of_the_context_in_a_limit_learns_and_so_does_the_context() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    program = TorchProgram(3, 3, smooth=square, matrix=ONE, limit=lambda x: 0.5 + net(x) ** 2)
    y, context = uniform(6, 5, 3), uniform(6, 2, seed=2).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return DecisionLayer(program)(y, context=x).square().sum()

    loss(context).backward()
    weight = net[0].weight
    assert weight.grad is not None and context.grad is not None
    for tensor, gradient in ((weight, weight.grad), (context, context.grad)):
        with torch.no_grad():
            kept = tensor[0, 0].clone()
            losses = []
            for step in (1e-5, -1e-5):
                tensor[0, 0] = kept + step
                losses.append(float(loss(context)))
            tensor[0, 0] = kept
        difference = (losses[0] - losses[1]) / 2e-5
        assert difference != 0
        assert float(gradient[0, 0]) == pytest.approx(difference, rel=1e-5, abs=1e-9)


def test_gradients_of_parts_leave_those_of_scenarios_as_they_are() -> None:
    y = uniform(4, 9, 3)
    found = []
    for learns in (False, True):
        limit = torch.tensor([0.7], **D, requires_grad=learns)
        scenarios = y.clone().requires_grad_()
        weights = torch.full((4, 9), 1 / 9, **D, requires_grad=True)
        program = TorchProgram(3, 3, smooth=square, hinges=HINGES, matrix=ONE, limit=limit)
        DecisionLayer(program)(scenarios, weights).square().sum().backward()
        found.append((scenarios.grad, weights.grad))
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


def test_an_unsolved_instance_leaves_the_parts_finite_gradients() -> None:
    limit = torch.tensor([0.7], **D, requires_grad=True)
    program = TorchProgram(3, 3, smooth=square, lower=lambda x: x, matrix=ONE, limit=limit)
    layer = DecisionLayer(program, max_failure_share=1.0)
    z = layer(uniform(2, 5, 3), context=torch.tensor([[-1.0], [1.0]], **D))
    assert z.isnan().all(1).tolist() == [False, True]
    z[0].sum().backward()
    assert limit.grad is not None and bool(limit.grad.isfinite().all())


def test_a_tensor_changed_in_place_is_seen_by_the_next_decision() -> None:
    coefficient, slope = torch.tensor(4.0, **D), torch.tensor(1.0, **D)
    program = TorchProgram(
        1,
        1,
        hinges=[Hinge(coefficient, lambda y, z: y - slope * z), Hinge(1.0, lambda y, z: z - y)],
        lower=0.0,
    )
    y = uniform(1, 51, 1)

    def fresh() -> Tensor:
        made = TorchProgram(1, 1, hinges=program.terms, lower=0.0)
        return solve(made, y).decision

    first = solve(program, y).decision
    coefficient.fill_(0.25)
    second = solve(program, y).decision
    assert torch.equal(second, fresh()) and not torch.equal(first, second)
    slope.fill_(0.5)
    coefficient.fill_(4.0)
    assert torch.equal(solve(program, y).decision, fresh())


def test_an_optimiser_finds_the_limit_that_decisions_were_made_with() -> None:
    y = uniform(32, 9, 3)
    program = TorchProgram(3, 3, smooth=square, matrix=ONE, limit=torch.tensor([0.9], **D))
    target = solve(program, y).decision
    limit = nn.Parameter(torch.tensor([0.3], **D))
    layer = DecisionLayer(TorchProgram(3, 3, smooth=square, matrix=ONE, limit=limit))
    optimiser = torch.optim.SGD([limit], lr=0.5)
    for _ in range(40):
        optimiser.zero_grad()
        (layer(y) - target).square().sum(1).mean().backward()
        optimiser.step()
    assert float(limit.detach()) == pytest.approx(0.9, abs=1e-4)


def test_what_cannot_learn_is_refused_before_it_runs() -> None:
    limit = torch.tensor([0.7], **D, requires_grad=True)
    program = TorchProgram(3, 3, smooth=square, matrix=ONE, limit=limit)
    with pytest.raises(ValueError, match="curvature='paper' differentiates no map"):
        DecisionLayer(program, curvature="paper")(uniform(2, 5, 3))
    pytest.importorskip("cvxpylayers")
    with pytest.raises(ValueError, match="solver='cvxpylayers' differentiates its scenarios only"):
        DecisionLayer(program, curvature="saa", solver="cvxpylayers")(uniform(2, 5, 3))


def test_training_refuses_a_program_whose_parts_it_would_not_move() -> None:
    import numpy as np
    import pandas as pd

    limit = torch.tensor([0.7], **D, requires_grad=True)
    program = TorchProgram(2, 2, smooth=square, matrix=torch.ones(1, 2), limit=limit)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((60, 3)), columns=list("xab"))
    task = ddfl.task_from_frame("learned", program, frame, ["x"], ["a", "b"])
    with pytest.raises(ddfl.UserError, match="a tensor of the program requires a gradient"):
        ddfl.train(task, ddfl.GaussianPredictor, device="cpu")
