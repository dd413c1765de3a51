"""Product allocation: log-sum-exp of the paper's cost, and derivatives in units of its mean."""

import math

import cvxpy as cp
import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, ProductAllocation
from diffusion_dfl.solvers import solve

PROGRAM = ProductAllocation(num_decisions=3, capacity=2.0)
_STEP = 1e-5


def _instance(seed: int = 0) -> tuple[Instances, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scenarios = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    weights = 0.1 + torch.rand(2, 5, dtype=torch.float64, generator=generator)
    z = 2 * torch.rand(2, 3, dtype=torch.float64, generator=generator)
    return Instances.of(scenarios, weights / weights.sum(1, keepdim=True)), z


def _units(size: int) -> list[Tensor]:
    return [_STEP * row for row in torch.eye(size, dtype=torch.float64)]


def test_cost_is_the_papers_exponential_and_overflows_to_infinity() -> None:
    margins = [[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [-400.0, 0.0, 0.0]]
    outcome = torch.tensor(margins, dtype=torch.float64)
    plans = [[0.3, 0.1, 2.0], [1.0, 2.0, 0.0], [2.0, 1.0, 1.0]]
    decision = torch.tensor(plans, dtype=torch.float64)
    cost = PROGRAM.cost(outcome, decision).tolist()
    assert cost[:2] == pytest.approx([math.exp(-0.3 + 0.2 - 1.0), 1.0], rel=1e-15)
    assert cost[2] == math.inf


def test_objective_is_the_logarithm_of_the_expected_cost() -> None:
    at, z = _instance()
    expected = (at.weights * PROGRAM.cost(at.scenarios, z.unsqueeze(1))).sum(1)
    assert torch.allclose(PROGRAM.objective(at, z), expected.log(), rtol=1e-14)
    # Far beyond the range of exp: a common loss of 1e4 adds 1e4.
    shift = torch.tensor([-1e4, 0.0, 0.0], dtype=torch.float64)
    z[:, 0] = 1.0
    small = PROGRAM.objective(at, z)
    large = PROGRAM.objective(Instances.of(at.scenarios + shift, at.weights), z)
    assert torch.allclose(large, small + 1e4, rtol=1e-14)


def test_gradient_and_hessian_are_central_differences_of_the_objective() -> None:
    at, z = _instance(1)
    gradient, hessian = PROGRAM.gradient(at, z), PROGRAM.hessian(at, z)
    for i, step in enumerate(_units(3)):
        rise, fall = PROGRAM.objective(at, z + step), PROGRAM.objective(at, z - step)
        assert torch.allclose((rise - fall) / (2 * _STEP), gradient[:, i], rtol=0, atol=1e-9)
        up, down = PROGRAM.gradient(at, z + step), PROGRAM.gradient(at, z - step)
        assert torch.allclose((up - down) / (2 * _STEP), hessian[:, i], rtol=0, atol=1e-8)


@pytest.mark.parametrize("weighted", [True, False])
def test_scenario_derivatives_are_those_of_the_cost_over_its_fixed_mean(weighted: bool) -> None:
    at, z = _instance(2)
    scenarios = at.scenarios
    at = at if weighted else Instances.of(scenarios)
    mean = (at.weights * PROGRAM.cost(scenarios, z.unsqueeze(1))).sum(1).view(-1, 1)
    gradients = PROGRAM.gradients(at, z)
    for i, step in enumerate(_units(3)):
        rise = PROGRAM.cost(scenarios, (z + step).unsqueeze(1)) / mean
        fall = PROGRAM.cost(scenarios, (z - step).unsqueeze(1)) / mean
        assert torch.allclose((rise - fall) / (2 * _STEP), gradients[..., i], rtol=0, atol=1e-8)

    adjoint = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.0, -2.0]], dtype=torch.float64)
    product = PROGRAM.cross_product(at, z, adjoint)

    def slope(outcome: Tensor) -> Tensor:
        along = -(outcome * adjoint.unsqueeze(1)).sum(2)
        return PROGRAM.cost(outcome, z.unsqueeze(1)) / mean * along

    for i, step in enumerate(_units(3)):
        difference = (slope(scenarios + step) - slope(scenarios - step)) / (2 * _STEP)
        assert torch.allclose(difference, product[..., i], rtol=0, atol=1e-8)


def test_scenario_gradients_average_to_the_gradient_however_extreme_the_weights() -> None:
    at, z = _instance(3)
    scenarios, weights = at.scenarios, at.weights
    scenarios[:, 0] *= 50
    weights[:, 1] = 0.0
    weights[:, 2] = 1e-30
    weights /= weights.sum(1, keepdim=True)
    average = torch.einsum("bm,bmn->bn", weights, PROGRAM.gradients(at, z))
    scale = scenarios.abs().amax()
    assert torch.allclose(average, PROGRAM.gradient(at, z), rtol=0, atol=1e-13 * scale)
    assert torch.allclose(PROGRAM.shares(at, z).sum(1), weights.sum(1), rtol=1e-14)


def test_a_scenario_without_weight_keeps_finite_derivatives() -> None:
    at, z = _instance(4)
    at.scenarios[:, 0] = -1e4
    at.weights[:, 0] = 0.0
    assert bool(PROGRAM.gradients(at, z).isfinite().all())
    assert bool(PROGRAM.cross_product(at, z, torch.ones_like(z)).isfinite().all())


def test_hessian_keeps_its_digits_where_the_spread_is_far_below_the_mean() -> None:
    at, z = _instance(5)
    narrow = Instances.of(1e3 + 1e-4 * at.scenarios, at.weights)
    covariance = PROGRAM.hessian(narrow, 0 * z)
    expected = 1e-8 * PROGRAM.hessian(at, 0 * z)
    assert torch.allclose(covariance, expected, rtol=1e-7, atol=1e-16)


def test_holding_the_mean_cost_constant_does_not_change_the_derivative_of_the_decision() -> None:
    """The scaled second moment and frozen cross derivative, against F differentiated in full."""
    generator = torch.Generator().manual_seed(6)
    scenarios = 0.2 + torch.randn(8, 12, 3, dtype=torch.float64, generator=generator)
    z, at = solve(PROGRAM, scenarios).decision, Instances.of(scenarios)
    free = ((z > 0) & (z < 2)).double()
    assert 0 < free.mean() < 1
    right = torch.randn(8, 3, dtype=torch.float64, generator=generator) * free
    ends = torch.diag_embed(1 - free)
    shares = PROGRAM.shares(at, z)
    moment = torch.einsum("bm,bmi,bmj->bij", shares, scenarios, scenarios)
    adjoints = []
    for curvature in (PROGRAM.hessian(at, z), moment):
        face = curvature * free.unsqueeze(1) * free.unsqueeze(2) + ends
        adjoints.append(torch.linalg.solve(face, right))
    assert torch.allclose(adjoints[0], adjoints[1], rtol=0, atol=1e-9)
    outcome = scenarios.clone().requires_grad_()
    slope = (PROGRAM.gradient(Instances.of(outcome), z) * adjoints[0]).sum()
    (full,) = torch.autograd.grad(slope, outcome)
    frozen = PROGRAM.cross_product(at, z, adjoints[0])
    assert torch.allclose(full, at.weights.unsqueeze(2) * frozen, rtol=0, atol=1e-9)


def test_the_feasible_set_is_the_box() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    constraints = PROGRAM.constraints(like)
    z = torch.tensor([[0.5, -1.0, 3.0]], dtype=torch.float64)
    values = constraints.inequality_values(z).tolist()[0]
    assert values == [-0.5, 1.0, -3.0, -1.5, -3.0, 1.0]


@pytest.mark.parametrize("parametric", [True, False])
def test_cvxpy_statement_has_the_objective_of_the_program_and_is_dpp(parametric: bool) -> None:
    at, z = _instance(7)
    at.weights[0, 1] = 0.0
    values = at.scenarios[0].numpy()
    given = cp.Parameter(values.shape, value=values) if parametric else values
    problem, variable, constraints = PROGRAM.cvxpy_problem(given, at.weights[0].numpy())
    assert problem.is_dcp(dpp=True)
    variable.value = z[0].numpy()
    expected = PROGRAM.objective(at, z)[0]
    assert float(problem.objective.value) == pytest.approx(float(expected), rel=1e-13)
    variable.value = [-1.0, 1.0, 2.5]
    assert constraints[0].violation().tolist() == [1.0, 0.0, 0.0]
    assert constraints[1].violation().tolist() == [0.0, 0.0, 0.5]


@pytest.mark.parametrize("capacity", [0.0, -1.0, math.inf, math.nan])
def test_a_capacity_that_is_no_positive_number_is_refused(capacity: float) -> None:
    with pytest.raises(ValueError, match="capacity"):
        ProductAllocation(capacity=capacity)


def test_there_is_at_least_one_product() -> None:
    with pytest.raises(ValueError, match="num_decisions=0"):
        ProductAllocation(num_decisions=0)
