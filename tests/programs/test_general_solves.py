"""A user's own programs through the solver and the layer, against what else solves them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, ProductAllocation, Program, TorchProgram
from diffusion_dfl.solvers import Status, solve
from tests.programs.general_cases import PAIRS, SIZE, D


def close(mine: Tensor, other: Tensor, tolerance: float) -> bool:
    return torch.allclose(mine, other, rtol=tolerance, atol=tolerance)


def scenarios_of(name: str, batch: int = 4, num_scenarios: int = 15) -> Tensor:
    noise = torch.randn(batch, num_scenarios, SIZE, generator=torch.Generator().manual_seed(3), **D)
    return {"power": noise, "newsvendor": 2 + noise, "portfolio": 0.02 * noise}[name]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_decisions_are_those_of_the_structured_solvers(
    name: str, width: float, scale: float
) -> None:
    program, mine = PAIRS[name]
    y = scenarios_of(name)
    if name == "power":
        y = scale * y
    s = width * y.std(1)
    solution, expected = solve(mine, y, None, s), solve(program, y, None, s)
    assert bool(solution.solved.all()), solution.report()
    assert torch.allclose(solution.decision, expected.decision, rtol=1e-7, atol=1e-7 * scale)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("scale", [0.0, 1.06])
def test_gradients_are_those_of_the_structured_programs(name: str, scale: float) -> None:
    found = []
    curvature = "saa" if scale == 0 and name != "portfolio" else "convolved"
    for program in PAIRS[name]:
        y = scenarios_of(name).requires_grad_()
        w = torch.full((4, 15), 1 / 15, **D).requires_grad_()
        layer = DecisionLayer(program, bandwidth_scale=scale, curvature=curvature)
        decision = layer(y, w)
        (decision**3).sum().backward()
        found.append((y.grad, w.grad - w.grad.mean(1, keepdim=True)))
    for mine, other in zip(*found, strict=True):
        assert close(mine, other, 1e-7)


def test_product_allocation_needs_no_more_than_its_formula() -> None:
    program = ProductAllocation(SIZE)
    mine = TorchProgram(SIZE, SIZE, smooth=lambda y, z: torch.exp(-(y @ z)), lower=0.0, upper=2.0)
    found = []
    for each in (mine, program):
        y = (0.3 + scenarios_of("power")).requires_grad_()
        decision = DecisionLayer(each)(y)
        (decision**3).sum().backward()
        found.append((decision.detach(), y.grad))
    for ours, other in zip(*found, strict=True):
        assert close(ours, other, 1e-7)


def test_a_norm_ball_holds_the_decision_as_cvxpy_says() -> None:
    cp = pytest.importorskip("cvxpy")
    radius, cost = 0.7, torch.tensor([2.0, 0.5, 1.0], **D)

    def reference(scenarios: Any, weights: Any) -> tuple[Any, Any, list[Any]]:
        z = cp.Variable(3)
        terms = [
            w * (cp.sum(cp.multiply(cost.numpy(), (z - y) ** 2)) + 3 * cp.sum(cp.pos(y - z)))
            for y, w in zip(scenarios, weights, strict=True)
        ]
        limits = [cp.sum_squares(z) <= radius**2, cp.sum(z) == 0.2]
        return cp.Problem(cp.Minimize(sum(terms)), limits), z, limits

    program = TorchProgram(
        3,
        3,
        smooth=lambda y, z: cost @ (z - y) ** 2,
        hinges=[Hinge(3.0, lambda y, z: y - z)],
        equality_matrix=torch.ones(1, 3, **D),
        equality_value=0.2,
        inequality=lambda x, z: z @ z - radius**2,
        num_inequalities=1,
        reference=reference,
    )
    y = 2 * torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(1), **D)
    solution = solve(program, y)
    assert bool(solution.solved.all()), solution.report()
    assert bool((solution.duals > 1e-3).any())
    assert float(solution.residuals.amax()) < 1e-10
    found = program.cost(y, solution.decision.unsqueeze(1)).mean(1)
    for b in range(4):
        problem, z, _ = program.cvxpy_problem(y[b].numpy(), np.full(8, 1 / 8))
        problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
        assert float(found[b]) == pytest.approx(problem.value, abs=1e-7)
        # An objective within 1e-9 leaves a decision within its root.
        assert solution.decision[b].tolist() == pytest.approx(z.value.tolist(), abs=1e-4)


def test_limits_follow_the_context() -> None:
    program = TorchProgram(
        2,
        2,
        smooth=lambda y, z: ((z - y) ** 2).sum(),
        matrix=torch.ones(1, 2, **D),
        limit=lambda x: x[:1],
        upper=lambda x: x[1],
        inequality=lambda x, z: z[0] ** 2 - x[2],
        num_inequalities=1,
    )
    y = torch.full((3, 4, 2), 2.0, **D)
    context = torch.tensor([[3.0, 9.0, 9.0], [9.0, 1.5, 9.0], [9.0, 9.0, 1.0]], **D)
    solution = solve(program, y, context=context)
    assert bool(solution.solved.all()), solution.report()
    expected = torch.tensor([[1.5, 1.5], [1.5, 1.5], [1.0, 2.0]], **D)
    assert torch.allclose(solution.decision, expected, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match="context"):
        solve(program, y)


def test_instances_without_an_optimum_are_named_by_their_status() -> None:
    y = torch.ones(4, 3, 2, **D)
    y[1::2] = -1.0
    infeasible = TorchProgram(
        2,
        2,
        smooth=lambda y, z: (z**2).sum(),
        matrix=torch.tensor([[1.0, 0.0], [-1.0, 0.0]], **D),
        limit=lambda x: torch.cat([x, x]),
    )
    solution = solve(infeasible, y, context=y[:, 0, :1])
    assert solution.status.tolist() == [Status.SOLVED, Status.INFEASIBLE] * 2
    assert "instances 1, 3 (2 of 4): infeasible" in solution.report()
    unbounded = TorchProgram(2, 2, smooth=lambda y, z: y[0] * z[0] + z[1] ** 2, upper=1.0)
    solution = solve(unbounded, y)
    assert solution.status.tolist() == [Status.UNBOUNDED, Status.SOLVED] * 2
    concave = TorchProgram(2, 2, smooth=lambda y, z: y[0] * (z**2).sum(), lower=-1.0, upper=1.0)
    solution = solve(concave, y)
    assert solution.status.tolist() == [Status.SOLVED, Status.NON_CONVEX] * 2


def test_a_program_is_a_program() -> None:
    assert isinstance(PAIRS["power"][1], Program)
    with pytest.raises(ValueError, match="scenarios have 3 outcomes"):
        solve(PAIRS["power"][1], torch.ones(1, 2, 3, **D))


def test_the_gradient_of_limits_that_follow_the_context_is_the_derivative() -> None:
    """Rows shared by the batch with right-hand sides of its own, and an equality in disguise."""
    program = TorchProgram(
        2,
        2,
        smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum(),
        matrix=torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]], **D),
        limit=lambda x: torch.cat([x, 9.0 * x, 9.0 * x]),
    )
    y = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0), **D) + 1.0
    context = torch.tensor([[0.5], [9.0], [0.0]], **D)
    layer = DecisionLayer(program, curvature="saa")
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: layer(s, context=context), (y,), atol=1e-5)
