"""The power program: the paper's cost, its convolution and its derivatives."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from diffusion_dfl.programs import Instances, PowerProgram

PROGRAM = PowerProgram(shortage=5.0, excess=0.5, num_decisions=3)


def _instance(seed: int = 0, width: float = 0.3) -> tuple[Instances, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scenarios = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    weights = torch.rand(2, 4, dtype=torch.float64, generator=generator)
    z = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    return Instances(scenarios, weights, torch.full_like(z, width)), z


def _paper_cost(y: float, z: float, shortage: float, excess: float) -> float:
    return shortage * max(y - z, 0.0) + excess * max(z - y, 0.0) + 0.5 * (z - y) ** 2


@pytest.mark.parametrize("shortage, excess", [(50.0, 0.5), (0.0, 2.0), (3.0, 0.0)])
def test_cost_is_the_papers_formula_summed_over_hours(shortage: float, excess: float) -> None:
    torch.manual_seed(0)
    y, z = torch.randn(4, 24, dtype=torch.float64), torch.randn(4, 24, dtype=torch.float64)
    z[0, 0] = y[0, 0]
    program = PowerProgram(shortage, excess)
    for row in range(4):
        pairs = zip(y[row].tolist(), z[row].tolist(), strict=True)
        plain = [_paper_cost(a, b, shortage, excess) for a, b in pairs]
        assert float(program.cost(y, z)[row]) == pytest.approx(math.fsum(plain), rel=1e-13)
        assert program.hourly_cost(y, z)[row].tolist() == pytest.approx(plain, rel=1e-13, abs=1e-15)


def test_objective_without_width_is_the_weighted_cost() -> None:
    at, z = _instance()
    plain = (at.weights * PROGRAM.cost(at.scenarios, z.unsqueeze(1))).sum(1)
    assert torch.allclose(PROGRAM.objective(at.exact(), z), plain, rtol=1e-13)


@pytest.mark.parametrize("width", [0.1, 1.0])
def test_objective_is_the_gaussian_expectation_of_the_cost_less_its_constant(width: float) -> None:
    instances, z = _instance(1, width)
    value = PROGRAM.objective(instances, z)
    for b in range(2):
        expected = 0.0
        for m in range(4):
            for h in range(3):
                y, at = float(instances.scenarios[b, m, h]), float(z[b, h])

                def integrand(x: float, y: float = y, at: float = at) -> float:
                    return _paper_cost(y + width * x, at, 5.0, 0.5) * norm.pdf(x)

                kink = min(max((at - y) / width, -10.0), 10.0)
                mean = sum(quad(integrand, *ends)[0] for ends in ((-10, kink), (kink, 10)))
                expected += float(instances.weights[b, m]) * (mean - 0.5 * width**2)
        assert float(value[b]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("width", [0.05, 0.3, 2.0])
def test_derivatives_are_those_of_the_objective(width: float) -> None:
    at, z = _instance(2, width)
    inputs = [t.clone().requires_grad_() for t in (*at.parts[:3], z)]
    value = PROGRAM.objective(Instances(*inputs[:3]), inputs[3]).sum()
    (gradient,) = torch.autograd.grad(value, inputs[3], create_graph=True)
    closed = torch.einsum("bm,bmn->bn", at.weights, PROGRAM.gradients(at, z))
    assert torch.allclose(gradient, closed, rtol=0, atol=1e-12)

    in_y, in_w, in_s, in_z = torch.autograd.grad(gradient.sum(), inputs, retain_graph=True)
    assert torch.allclose(in_z, PROGRAM.hessian(at, z), rtol=1e-12)
    cross = at.weights.unsqueeze(-1) * PROGRAM.cross(at, z)
    assert torch.allclose(in_y, cross, rtol=1e-12)
    per_scenario = PROGRAM.gradients(at, z).sum(-1)
    assert torch.allclose(in_w, per_scenario, rtol=0, atol=1e-12)
    closed_width = PROGRAM.bandwidth_product(at, z, torch.ones_like(z))
    assert torch.allclose(in_s, closed_width, rtol=0, atol=1e-12)


def test_translation_of_outcome_and_decision_leaves_the_gradient_alone() -> None:
    at, z = _instance(3)
    cross = torch.einsum("bm,bmn->bn", at.weights, PROGRAM.cross(at, z))
    assert torch.allclose(cross, -PROGRAM.hessian(at, z), rtol=1e-13)


def test_derivatives_without_width_are_those_of_the_smooth_part_and_finite_at_the_kink() -> None:
    at, z = _instance(4, 0.0)
    at.scenarios[:, 0] = z
    ones = torch.ones_like(z)
    assert torch.equal(PROGRAM.cross(at, z), -torch.ones_like(at.scenarios))
    assert torch.allclose(PROGRAM.hessian(at, z), ones, rtol=1e-14)
    assert torch.equal(PROGRAM.bandwidth_product(at, z, ones), 0 * z)
    midpoint = PROGRAM.gradients(at, z)[:, 0]
    assert torch.allclose(midpoint, torch.full_like(z, 0.5 * (0.5 - 5.0)), rtol=1e-14)


def test_inequalities_bound_rises_first_and_falls_second() -> None:
    program = PowerProgram(ramp=0.4, num_decisions=4)
    matrix, limit = program.inequalities(torch.zeros(1, dtype=torch.float64))
    schedule = torch.tensor([0.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    assert (matrix @ schedule).tolist() == [1.0, -0.5, 0.0, -1.0, 0.5, 0.0]
    assert limit.tolist() == [0.4] * 6
    alone, none = PowerProgram(num_decisions=1).inequalities(schedule)
    assert alone.shape == (0, 1) and none.shape == (0,)


def test_cvxpy_statement_has_the_cost_of_the_program() -> None:
    program = PowerProgram(num_decisions=5)
    torch.manual_seed(5)
    scenarios = torch.randn(3, 5, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    problem, z, constraints = program.cvxpy_problem(scenarios.numpy(), weights.numpy())
    z.value = torch.randn(5, dtype=torch.float64).numpy()
    cost = (weights * program.cost(scenarios, torch.from_numpy(z.value))).sum()
    assert float(problem.objective.value) == pytest.approx(float(cost), rel=1e-13)
    change = torch.from_numpy(z.value).diff()
    excess = torch.cat([change - 0.4, -change - 0.4]).clamp_min(0)
    assert [float(v) for c in constraints for v in c.violation()] == pytest.approx(excess.tolist())


@pytest.mark.parametrize("name", ["shortage", "excess", "ramp"])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_negative_or_nan_costs_and_limits_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        PowerProgram(**{name: value})


def test_a_schedule_has_at_least_one_hour() -> None:
    with pytest.raises(ValueError, match="num_decisions=0"):
        PowerProgram(num_decisions=0)
