"""The general program: a user's own torch functions, their derivatives and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import (
    Hinge,
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
    TorchProgram,
)
from diffusion_dfl.programs.general import scenario_cost
from diffusion_dfl.solvers import Status, solve

D: dict[str, Any] = {"dtype": torch.float64}
SIZE = 4


def users_power(program: PowerProgram, ramp: bool = True) -> TorchProgram:
    matrix, limit = program.inequalities(torch.zeros(1, **D))
    return TorchProgram(
        program.num_decisions,
        program.num_outcomes,
        smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum(),
        hinges=[
            Hinge(program.shortage, lambda y, z: y - z),
            Hinge(program.excess, lambda y, z: z - y),
        ],
        matrix=matrix if ramp else None,
        limit=limit if ramp else None,
    )


def users_newsvendor(program: Newsvendor) -> TorchProgram:
    return TorchProgram(
        program.num_decisions,
        program.num_outcomes,
        smooth=lambda y, z: (program.c0 * z + 0.5 * program.q0 * z**2).sum(),
        hinges=[
            Hinge(program.cb, lambda y, z: y - z),
            Hinge(program.rb / 3, lambda y, z: y - z, power=3),
            Hinge(program.ch, lambda y, z: z - y),
            Hinge(program.rh / 3, lambda y, z: z - y, power=3),
        ],
        lower=0.0,
        upper=program.z_max,
    )


def users_portfolio(program: MeanVariancePortfolio) -> TorchProgram:
    return TorchProgram(
        program.num_decisions,
        program.num_outcomes,
        smooth=lambda y, z: 0.5 * program.risk_aversion * (y @ z) ** 2 - y @ z,
        lower=0.0,
        equality_matrix=torch.ones(1, program.num_decisions, **D),
        equality_value=1.0,
    )


POWER = PowerProgram(shortage=5.0, excess=0.5, num_decisions=SIZE)
NEWSVENDOR = Newsvendor(num_decisions=SIZE)
PORTFOLIO = MeanVariancePortfolio(SIZE)
PAIRS = {
    "power": (POWER, users_power(POWER)),
    "newsvendor": (NEWSVENDOR, users_newsvendor(NEWSVENDOR)),
    "portfolio": (PORTFOLIO, users_portfolio(PORTFOLIO)),
}


def curved_program() -> TorchProgram:
    """Nothing has a closed form: slopes that depend on y, widths on z, an outcome of its own size."""
    return TorchProgram(
        3,
        2,
        smooth=lambda y, z: torch.exp(0.3 * y[0] * z[0]) + (z**2).sum() * (1 + y[1] ** 2),
        hinges=[
            Hinge(2.0, lambda y, z: y[0] * z[0] + y[1] * z[1] - z[2]),
            Hinge((0.5, 3.0), lambda y, z: torch.stack([y[1] - z[0], torch.sin(y[0]) * z[1]])),
            Hinge(0.7, lambda y, z: y[0] ** 2 - z[2], power=2),
        ],
    )


def instance(
    num_outcomes: int, num_decisions: int, width: float = 0.4, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scenarios = 1 + torch.randn(3, 6, num_outcomes, generator=generator, **D)
    weights = torch.rand(3, 6, generator=generator, **D)
    z = torch.rand(3, num_decisions, generator=generator, **D)
    adjoint = torch.randn(3, num_decisions, generator=generator, **D)
    spread = width * (0.5 + torch.rand(3, num_outcomes, generator=generator, **D))
    return scenarios, weights / weights.sum(1, keepdim=True), spread, z, adjoint


def full(hessian: Tensor) -> Tensor:
    return torch.diag_embed(hessian) if hessian.dim() == 2 else hessian


def close(mine: Tensor, other: Tensor, tolerance: float = 1e-10) -> bool:
    return torch.allclose(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("width", [0.0, 0.4])
def test_derivatives_are_the_hand_written_ones(name: str, width: float) -> None:
    program, mine = PAIRS[name]
    y, w, s, z, u = instance(SIZE, SIZE, width)
    assert close(mine.cost(y, z.unsqueeze(1)), program.cost(y, z.unsqueeze(1)))
    assert close(mine.gradients(y, s, z), program.gradients(y, s, z))
    assert close(mine.gradient(y, w, s, z), program.gradient(y, w, s, z))
    assert close(mine.hessian(y, w, s, z), full(program.hessian(y, w, s, z)))
    assert close(mine.cross_product(y, s, z, u), program.cross_product(y, s, z, u))
    product = mine.bandwidth_product(y, w, s, z, u)
    assert close(product, program.bandwidth_product(y, w, s, z, u))
    difference = mine.objective(y, w, s, z) - program.objective(y, w, s, z)
    again = mine.objective(y, w, s, z + 0.3) - program.objective(y, w, s, z + 0.3)
    assert close(difference, again)
    assert mine.kinked == program.kinked


def central(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    step = 1e-6
    return (function(at + step * direction) - function(at - step * direction)) / (2 * step)


@pytest.mark.parametrize("width", [0.0, 0.3])
def test_derivatives_of_curved_functions_match_central_differences(width: float) -> None:
    program = curved_program()
    y, w, s, z, u = instance(2, 3, width)
    v = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), **D)
    along = central(lambda at: program.objective(y, w, s, at), z, v)
    assert close(along, (program.gradient(y, w, s, z) * v).sum(1), 1e-7)
    summed = torch.einsum("bm,bmn->bn", w, program.gradients(y, s, z))
    assert close(summed, program.gradient(y, w, s, z), 1e-13)
    bend = central(lambda at: program.gradient(y, w, s, at), z, v)
    assert close(bend, torch.einsum("bij,bj->bi", program.hessian(y, w, s, z), v), 1e-7)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), **D)
    moved = central(lambda at: (program.gradients(at, s, z) * u.unsqueeze(1)).sum(2), y, dy)
    assert close(moved, (program.cross_product(y, s, z, u) * dy).sum(2), 1e-7)
    ds = s * torch.rand(s.shape, generator=torch.Generator().manual_seed(3), **D)
    wider = central(lambda at: (program.gradient(y, w, at, z) * u).sum(1), s, ds)
    assert close(wider, (program.bandwidth_product(y, w, s, z, u) * ds).sum(1), 1e-7)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_convolution_is_the_mean_over_the_kernel_for_an_argument_affine_in_y(power: int) -> None:
    program = TorchProgram(
        2,
        2,
        smooth=lambda y, z: (y * z).sum() ** 2,
        hinges=[
            Hinge(2.0, lambda y, z: y @ z - 0.3),
            Hinge(1.5, lambda y, z: y[0] - 2 * y[1] + z[0], power=power),
        ],
    )
    y, w, s, z, _ = (part[:1] for part in instance(2, 2))
    xi = torch.linspace(-7.0, 7.0, 401, **D)
    mass = torch.exp(-0.5 * xi**2)
    noise = torch.cartesian_prod(xi, xi)
    share = torch.outer(mass, mass).flatten() / mass.sum() ** 2
    smooth = TorchProgram(2, 2, smooth=program.smooth)
    hinges = TorchProgram(2, 2, hinges=program.terms)
    mean = hinges.cost(y.unsqueeze(2) + s[:, None, None] * noise, z[:, None, None]) @ share
    expected = (w * (mean + smooth.cost(y, z.unsqueeze(1)))).sum(1)
    # A sum over a grid takes a kink up to the grid's width squared.
    assert torch.allclose(program.objective(y, w, s, z), expected, rtol=2e-4)


def test_declared_kinks_give_the_exact_cost_back() -> None:
    program = curved_program()
    y, _, s, z, _ = instance(2, 3, 0.0)
    hinges = program.hinges(y, s)
    assert hinges is not None and hinges.coefficient.shape == (3, 6, 3)
    kinked = (hinges.coefficient * hinges.arguments(z).clamp_min(0)).sum(2)
    smooth = TorchProgram(3, 2, smooth=program.smooth, hinges=[program.terms[2]])
    assert close(kinked + smooth.cost(y, z.unsqueeze(1)), program.cost(y, z.unsqueeze(1)))
    one_sided = program.masked_gradients(y, z)
    assert close(one_sided, program.gradients(y, s, z))


def test_a_bandwidth_takes_only_the_hinges_it_reaches() -> None:
    program = TorchProgram(
        2, 2, hinges=[Hinge(1.0, lambda y, z: y - z), Hinge(2.0, lambda y, z: y[1] * z[0] - z[1])]
    )
    y, _, s, _, _ = instance(2, 2)
    s[0] = 0.0
    s[1, 1] = 0.0
    hinges = program.hinges(y, s)
    assert hinges is not None
    assert hinges.coefficient[0, 0].tolist() == [1.0, 1.0, 2.0]
    assert hinges.coefficient[1, 0].tolist() == [0.0, 1.0, 2.0]
    assert hinges.coefficient[2, 0].tolist() == [0.0, 0.0, 0.0]


def test_cross_product_takes_the_slope_shares_of_kinks() -> None:
    program = TorchProgram(
        2, 2, hinges=[Hinge(3.0, lambda y, z: y @ z), Hinge(1.0, lambda y, z: y - z)]
    )
    y, _, s, z, u = instance(2, 2, 0.0)
    shares = torch.rand(3, 6, 3, generator=torch.Generator().manual_seed(5), **D)
    expected = 3.0 * shares[:, :, :1] * u.unsqueeze(1)
    assert close(program.cross_product(y, s, z, u, shares), expected)


def test_hinge_product_is_the_derivative_of_the_arguments_in_the_outcome() -> None:
    program = curved_program()
    y, _, s, z, _ = instance(2, 3, 0.0)
    multipliers = torch.rand(3, 6, 3, generator=torch.Generator().manual_seed(6), **D)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), **D)

    def total(at: Tensor) -> Tensor:
        hinges = program.hinges(at, s)
        assert hinges is not None
        return (multipliers * hinges.arguments(z)).sum(2)

    product = program.hinge_product(y, z, multipliers)
    assert close(central(total, y, direction), (product * direction).sum(2), 1e-7)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    program = curved_program()
    y, w, s, z, u = instance(2, 3)

    def everything() -> list[Tensor]:
        return [
            program.cost(y, z.unsqueeze(1)),
            program.objective(y, w, s, z),
            program.gradient(y, w, s, z),
            program.gradients(y, s, z),
            program.hessian(y, w, s, z),
            program.cross_product(y, s, z, u),
            program.bandwidth_product(y, w, s, z, u),
        ]

    whole = everything()
    monkeypatch.setattr(scenario_cost, "_CHUNK", 20)
    assert all(close(a, b, 1e-13) for a, b in zip(whole, everything(), strict=True))


def test_an_empty_batch_has_empty_derivatives() -> None:
    program = curved_program()
    y, w, s, z, u = (part[:0] for part in instance(2, 3))
    assert program.cost(y, z.unsqueeze(1)).shape == (0, 6)
    assert program.gradients(y, s, z).shape == (0, 6, 3)
    assert program.hessian(y, w, s, z).shape == (0, 3, 3)
    assert program.cross_product(y, s, z, u).shape == (0, 6, 2)
    hinges = program.hinges(y, s)
    assert hinges is not None and hinges.jacobian.shape == (0, 6, 3, 3)


def test_an_argument_affine_near_the_trial_points_only_is_not_taken_for_affine() -> None:
    program = TorchProgram(1, 1, hinges=[Hinge(1.0, lambda y, z: y.clamp(max=5e4) - z)])
    y = torch.tensor([[[1e5], [2e4]]], **D)
    z, s = torch.zeros(1, 1, **D), torch.full((1, 1), 10.0, **D)
    program.validate(y, None)
    hinges = program.hinges(y, s)
    assert hinges is not None
    assert hinges.offset.flatten().tolist() == [5e4, 2e4]
    assert hinges.coefficient.flatten().tolist() == [1.0, 0.0]
    assert close(program.cost(y, z.unsqueeze(1)), torch.tensor([[5e4, 2e4]], **D))


def bad(**parts: Any) -> None:
    """A program with a fault, as the first solve meets it."""
    parts = {"smooth": lambda y, z: (z**2).sum(), **parts}
    program = TorchProgram(2, 2, **parts)
    program.validate(torch.ones(1, 3, 2, **D), None)


def in_place(y: Tensor, z: Tensor) -> Tensor:
    z[0] = 0.0
    return z.sum()


def branching(y: Tensor, z: Tensor) -> Tensor:
    return z.sum() if bool(z[0] > 0) else -z.sum()


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"smooth": lambda y, z: z}, r"smooth\(y, z\) returned shape \(2,\).*sum"),
        ({"smooth": lambda y, z: 1.0}, r"smooth\(y, z\) returned float"),
        ({"smooth": lambda y, z: z.float().sum()}, r"float32.*float64"),
        ({"smooth": lambda y, z: (y[:1] @ z).sum()}, r"smooth\(y, z\) failed"),
        ({"smooth": in_place}, "writes into its arguments"),
        ({"smooth": branching}, "does not vectorise.*torch.where"),
        ({"smooth": lambda y, z: z.sum() * y[0].item()}, "does not vectorise"),
        ({"smooth": lambda y, z: (z.detach() ** 2).sum()}, "not differentiable in z"),
        ({"smooth": lambda y, z: (y.detach() * z).sum()}, "not differentiable in y"),
        ({"smooth": lambda y, z: z.sum() * math.nan}, "NaN or infinite at every trial point"),
        ({"smooth": lambda y, z: z.sum() + torch.rand((), **D)}, "other values|vectorise"),
        ({"hinges": [Hinge(1.0, lambda y, z: z**2 - y)]}, r"hinges\[0\].*not affine in z.*smooth"),
        ({"hinges": [Hinge((1.0, 2.0, 3.0), lambda y, z: z - y)]}, "2 values"),
        ({"hinges": [Hinge(1.0, lambda y, z: torch.outer(y, z))]}, r"shape \(2, 2\)"),
        (
            {"inequality": lambda x, z: z @ z, "num_inequalities": 2},
            r"inequality\(x, z\) returned 1 values; num_inequalities=2",
        ),
        ({"inequality": lambda x, z: -(z @ z), "num_inequalities": 1}, "not convex in z"),
        ({"inequality": lambda x, z: z[0] - x[0], "num_inequalities": 1}, "without the context"),
        (
            {"matrix": torch.ones(1, 2, **D), "limit": lambda x: x},
            r"limit depends on the context; pass context",
        ),
    ],
)
def test_what_torch_func_cannot_take_is_named_with_its_mend(
    parts: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        bad(**parts)


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"smooth": None}, "needs a cost"),
        ({"hinges": [lambda y, z: z]}, "Hinge"),
        ({"matrix": torch.ones(1, 2)}, "matrix and limit come together"),
        ({"matrix": torch.ones(1, 3), "limit": 1.0}, "matrix has shape"),
        ({"lower": torch.zeros(3)}, "lower has shape"),
        ({"equality_matrix": torch.ones(1, 2), "equality_value": torch.ones(3)}, "equality_value"),
        ({"inequality": lambda x, z: z}, "num_inequalities=0"),
        ({"num_decisions": 0}, "num_decisions=0"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_the_program_is_made(
    parts: dict[str, Any], message: str
) -> None:
    given = {"num_decisions": 2, "num_outcomes": 2, "smooth": lambda y, z: z.sum(), **parts}
    with pytest.raises((ValueError, TypeError), match=message):
        TorchProgram(**given)


@pytest.mark.parametrize("coefficient, power", [(-1.0, 1), (math.nan, 1), (1.0, 4)])
def test_a_hinge_has_coefficients_of_at_least_zero_and_power_1_to_3(
    coefficient: float, power: int
) -> None:
    with pytest.raises(ValueError, match="hinge"):
        Hinge(coefficient, lambda y, z: y - z, power)


def test_without_a_reference_there_is_no_cvxpy_statement() -> None:
    program = TorchProgram(2, 2, smooth=lambda y, z: (z**2).sum())
    with pytest.raises(TypeError, match="reference="):
        program.cvxpy_problem(np.ones((3, 2)), np.ones(3) / 3)


# Solves.


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
    cost = program.cost(y, solution.decision.unsqueeze(1)).mean(1)
    for b in range(4):
        problem, z, _ = program.cvxpy_problem(y[b].numpy(), np.full(8, 1 / 8))
        problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert float(cost[b]) == pytest.approx(problem.value, abs=1e-8)
        # An objective within 1e-10 leaves a decision within its root.
        assert solution.decision[b].tolist() == pytest.approx(z.value.tolist(), abs=2e-5)


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
