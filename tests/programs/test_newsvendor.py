"""The newsvendor program: the paper's cost, its convolution and its derivatives."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from diffusion_dfl.programs import Instances, Newsvendor

PROGRAM = Newsvendor(num_decisions=3)
PARAMETERS = [
    PROGRAM,
    Newsvendor(c0=-1.0, q0=0.0, cb=3.0, rb=0.0, ch=0.5, rh=7.0, num_decisions=3),
    Newsvendor(c0=0.0, q0=0.0, rb=0.0, rh=0.0, num_decisions=3),
    Newsvendor(cb=0.0, ch=0.0, num_decisions=3),
]


def _instance(seed: int = 0, width: float = 0.3) -> tuple[Instances, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scenarios = 2 + torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    weights = torch.rand(2, 4, dtype=torch.float64, generator=generator)
    z = 2 + torch.randn(2, 3, dtype=torch.float64, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    return Instances(scenarios, weights, torch.full_like(z, width)), z


def _paper_cost(p: Newsvendor, y: float, z: float) -> float:
    short, left = max(y - z, 0.0), max(z - y, 0.0)
    return (
        p.c0 * z
        + 0.5 * p.q0 * z**2
        + p.cb * short
        + p.rb / 3 * short**3
        + p.ch * left
        + p.rh / 3 * left**3
    )


@pytest.mark.parametrize("program", PARAMETERS)
def test_cost_is_the_papers_formula_summed_over_items(program: Newsvendor) -> None:
    at, z = _instance()
    y = at.scenarios[:, 0]
    y[0, 0] = z[0, 0]
    for row in range(2):
        pairs = zip(y[row].tolist(), z[row].tolist(), strict=True)
        plain = math.fsum(_paper_cost(program, a, b) for a, b in pairs)
        assert float(program.cost(y, z)[row]) == pytest.approx(plain, rel=1e-13)


@pytest.mark.parametrize("program", PARAMETERS)
def test_objective_without_width_is_the_weighted_cost(program: Newsvendor) -> None:
    at, z = _instance()
    plain = (at.weights * program.cost(at.scenarios, z.unsqueeze(1))).sum(1)
    assert torch.allclose(program.objective(at.exact(), z), plain, rtol=1e-13)


@pytest.mark.parametrize("program", PARAMETERS)
@pytest.mark.parametrize("width", [0.1, 1.0])
def test_objective_is_the_gaussian_expectation_of_the_cost(
    program: Newsvendor, width: float
) -> None:
    instances, z = _instance(1, width)
    expected = 0.0
    for m in range(4):
        for i in range(3):
            y, at = float(instances.scenarios[0, m, i]), float(z[0, i])

            def integrand(x: float, y: float = y, at: float = at) -> float:
                return _paper_cost(program, y + width * x, at) * norm.pdf(x)

            kink = min(max((at - y) / width, -12.0), 12.0)
            mean = sum(quad(integrand, *ends)[0] for ends in ((-12, kink), (kink, 12)))
            expected += float(instances.weights[0, m]) * mean
    value = float(program.objective(instances, z)[0])
    assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("program", PARAMETERS)
@pytest.mark.parametrize("width", [0.05, 0.3, 2.0])
def test_derivatives_are_those_of_the_objective(program: Newsvendor, width: float) -> None:
    at, z = _instance(2, width)
    inputs = [t.clone().requires_grad_() for t in (*at.parts[:3], z)]
    value = program.objective(Instances(*inputs[:3]), inputs[3]).sum()
    (gradient,) = torch.autograd.grad(value, inputs[3], create_graph=True)
    assert torch.allclose(gradient, program.gradient(at, z), rtol=1e-12, atol=1e-12)

    in_y, in_w, in_s, in_z = torch.autograd.grad(gradient.sum(), inputs)
    ones = torch.ones_like(z)
    assert torch.allclose(in_z, program.hessian(at, z), rtol=1e-11, atol=1e-11)
    cross = at.weights.unsqueeze(-1) * program.cross_product(at, z, ones)
    assert torch.allclose(in_y, cross, rtol=1e-11, atol=1e-11)
    per_scenario = program.gradients(at, z).sum(-1)
    assert torch.allclose(in_w, per_scenario, rtol=1e-12, atol=1e-11)
    in_width = program.bandwidth_product(at, z, ones)
    assert torch.allclose(in_s, in_width, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("width", [0.0, 0.4])
def test_derivatives_agree_with_central_differences(width: float) -> None:
    at, z = _instance(3, width)
    y, s = at.scenarios, at.bandwidth
    step, adjoint = 1e-5, torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 1.0]], dtype=torch.float64)

    def slope(y: Tensor, s: Tensor, z: Tensor) -> Tensor:
        return PROGRAM.gradients(Instances(y, at.weights, s), z)

    up = PROGRAM.objective(at, z + step * adjoint)
    down = PROGRAM.objective(at, z - step * adjoint)
    product = (PROGRAM.gradient(at, z) * adjoint).sum(1)
    assert torch.allclose((up - down) / (2 * step), product, rtol=1e-7)
    change = slope(y, s, z + step) - slope(y, s, z - step)
    mean = torch.einsum("bm,bmn->bn", at.weights, change) / (2 * step)
    assert torch.allclose(mean, PROGRAM.hessian(at, z), rtol=1e-6)
    change = slope(y + step, s, z) - slope(y - step, s, z)
    product = PROGRAM.cross_product(at, z, adjoint)
    assert torch.allclose(adjoint.unsqueeze(1) * change / (2 * step), product, rtol=1e-6)
    if width > 0:
        change = slope(y, s + step, z) - slope(y, s - step, z)
        mean = adjoint * torch.einsum("bm,bmn->bn", at.weights, change) / (2 * step)
        product = PROGRAM.bandwidth_product(at, z, adjoint)
        assert torch.allclose(mean, product, rtol=1e-6, atol=1e-8)


def test_translation_of_demand_and_order_changes_only_the_ordering_cost() -> None:
    at, z = _instance(4)
    cross = torch.einsum("bm,bmn->bn", at.weights, PROGRAM.cross(at, z))
    total = cross + PROGRAM.hessian(at, z)
    assert torch.allclose(total, torch.full_like(z, PROGRAM.q0), rtol=1e-12)


def test_derivatives_without_width_are_those_of_the_smooth_part_and_finite_at_the_kink() -> None:
    at, z = _instance(5, 0.0)
    scenarios = at.scenarios
    scenarios[:, 0] = z
    gap = (scenarios - z.unsqueeze(1)).abs()
    slope = torch.where(scenarios > z.unsqueeze(1), 2 * PROGRAM.rb, 2 * PROGRAM.rh) * gap
    assert torch.allclose(PROGRAM.cross(at, z), -slope, rtol=1e-14)
    zero = PROGRAM.bandwidth_product(at, z, torch.ones_like(z))
    assert torch.equal(zero, torch.zeros_like(z))
    midpoint = PROGRAM.c0 + PROGRAM.q0 * z + 0.5 * (PROGRAM.ch - PROGRAM.cb)
    assert torch.allclose(PROGRAM.gradients(at, z)[:, 0], midpoint, rtol=1e-14)


def test_hinges_hold_the_kinks_of_items_without_a_width_and_nothing_else() -> None:
    at, z = _instance(6)
    scenarios = at.scenarios
    at.bandwidth[:, 1] = 0
    hinges = PROGRAM.hinges(at)
    assert hinges.coefficient[0, 0].tolist() == [0.0, 40.0, 0.0]
    assert torch.allclose(hinges.arguments(z), scenarios - z.unsqueeze(1))
    multipliers = torch.rand_like(scenarios)
    assert torch.equal(PROGRAM.hinge_product(at, z, multipliers), multipliers)
    # Without its hinges the gradient is the same on both sides of a scenario.
    scenarios[:, 0] = z
    near = []
    for side in (-1e-9, 1e-9):
        slopes = hinges.coefficient * (PROGRAM.hinges(at).arguments(z + side) > 0)
        near.append(PROGRAM.gradients(at, z + side) - hinges.scenario_force(slopes))
    assert torch.allclose(near[0], near[1], rtol=0, atol=1e-5)


def test_constraints_are_the_box() -> None:
    box = PROGRAM.constraints(torch.zeros(1, dtype=torch.float64))
    z = torch.tensor([[-1.0, 2.0, 7.0]], dtype=torch.float64)
    assert box.counts == (0, 3, 3, 0)
    assert box.inequality_values(z).tolist() == [[1.0, -2.0, -7.0, -6.0, -3.0, 2.0]]


@pytest.mark.parametrize("program", PARAMETERS)
def test_cvxpy_statement_has_the_cost_of_the_program(program: Newsvendor) -> None:
    at, z = _instance(7)
    scenarios, weights = at.scenarios, at.weights
    problem, variable, constraints = program.cvxpy_problem(scenarios[0].numpy(), weights[0].numpy())
    variable.value = z[0].numpy()
    cost = (weights[0] * program.cost(scenarios[0], z[0])).sum()
    assert float(problem.objective.value) == pytest.approx(float(cost), rel=1e-13)
    assert problem.is_dcp() and len(constraints) == 2


@pytest.mark.parametrize("program", PARAMETERS)
def test_cvxpy_statement_is_dpp_in_the_scenarios(program: Newsvendor) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    weights = torch.full((4,), 0.25, dtype=torch.float64).numpy()
    problem, _, _ = program.cvxpy_problem(cvxpy.Parameter((4, 3)), weights)
    assert problem.is_dpp()


@pytest.mark.parametrize("name", ["q0", "cb", "rb", "ch", "rh", "z_max"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_negative_or_infinite_costs_and_limits_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Newsvendor(**{name: value})  # type: ignore[arg-type]


def test_an_order_may_earn_money_but_not_infinitely_and_has_a_limit_and_an_item() -> None:
    assert Newsvendor(c0=-1.0).c0 == -1.0
    with pytest.raises(ValueError, match="c0=nan"):
        Newsvendor(c0=math.nan)
    with pytest.raises(ValueError, match=r"z_max=0\.0"):
        Newsvendor(z_max=0.0)
    with pytest.raises(ValueError, match="num_decisions=0"):
        Newsvendor(num_decisions=0)
