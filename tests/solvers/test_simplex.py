"""The portfolio solver: closed forms, Clarabel, the KKT conditions, degenerate instances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from diffusion_dfl.programs import Instances, MeanVariancePortfolio
from diffusion_dfl.solvers import Solution, Status, solve

Array = NDArray[np.float64]


def _returns(batch: int, num_scenarios: int, num_assets: int, seed: int = 0) -> Tensor:
    """Daily returns with a common factor: mean 5e-4, standard deviation about 0.02."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    exposure = 0.5 + torch.rand(batch, 1, num_assets, dtype=torch.float64, generator=generator)
    common = 0.012 * exposure * normal(batch, num_scenarios, 1)
    return 5e-4 + common + 0.015 * normal(batch, num_scenarios, num_assets)


def _uniform(scenarios: Tensor) -> Tensor:
    return scenarios.new_full(scenarios.shape[:2], 1 / scenarios.shape[1])


def _violation(
    program: MeanVariancePortfolio, scenarios: Tensor, weights: Tensor, solution: Solution
) -> Array:
    """Largest KKT violation an instance, by formulas of this test alone, relative to its terms.

    Asset by asset: an asset of large returns beside others must not hide their errors. The terms
    of a slope are ``alpha E|y_i| |y|'z`` and ``E|y_i|``.
    """
    y, w, z = scenarios.numpy(), weights.numpy(), solution.decision.numpy()
    duals, level = solution.duals.numpy(), solution.equality_duals.numpy()
    alpha, ridge = program.risk_aversion, program.ridge * w.sum(1)[:, None]
    gain = np.einsum("bmn,bn->bm", y, z)
    slope = np.einsum("bm,bmn->bn", w * (alpha * gain - 1), y) + ridge * z
    size = np.einsum("bmn,bn->bm", np.abs(y), z)
    terms = np.einsum("bm,bmn->bn", w * (alpha * size + 1), np.abs(y)) + ridge
    terms = terms + (z * terms).sum(1)[:, None] + 1e-300
    stationarity = np.abs(slope - duals + level) / terms
    dual_sign, unused = -duals / terms, duals * z / terms
    worst = np.maximum(np.maximum(stationarity, dual_sign), unused).max(1)
    budget = np.abs(z.sum(1) - 1)
    return np.asarray(np.maximum(np.maximum(worst, budget), -z.min(1)))


def _assert_solved(
    program: MeanVariancePortfolio, scenarios: Tensor, weights: Tensor, tolerance: float = 1e-11
) -> Solution:
    solution = solve(program, scenarios, weights)
    assert bool(solution.solved.all()), solution.report()
    violation = _violation(program, scenarios, weights, solution)
    assert (violation <= tolerance).all(), violation.max()
    return solution


# --- closed forms ----------------------------------------------------------------------------


def test_two_assets_meet_where_their_marginal_costs_do() -> None:
    # f(z, 1-z) with Q = alpha E yy' and m = E y: z = (Q22 - Q12 + m1 - m2) / (Q11 - 2 Q12 + Q22).
    scenarios = torch.tensor([[[0.03, -0.01], [-0.02, 0.02], [0.01, 0.005]]], dtype=torch.float64)
    program = MeanVariancePortfolio(2, risk_aversion=40.0)
    second = 40.0 * torch.einsum("bmi,bmj->ij", scenarios, scenarios) / 3
    mean = scenarios.mean((0, 1))
    bend = second[0, 0] - 2 * second[0, 1] + second[1, 1]
    first = float((second[1, 1] - second[0, 1] + mean[0] - mean[1]) / bend)
    assert 0.1 < first < 0.9
    solution = solve(program, scenarios)
    assert solution.decision.flatten().tolist() == pytest.approx([first, 1 - first], abs=1e-14)
    assert solution.duals.flatten().tolist() == [0.0, 0.0]


def test_uncorrelated_assets_of_equal_mean_are_held_by_inverse_second_moment() -> None:
    # Scenarios +-e_i s_i: E yy' = diag(s_i^2) / n and E y = 0.
    spread = torch.tensor([0.01, 0.02, 0.04, 0.05], dtype=torch.float64)
    scenarios = torch.cat([torch.diag(spread), -torch.diag(spread)]).unsqueeze(0)
    inverse = spread**-2
    solution = solve(MeanVariancePortfolio(4), scenarios)
    assert torch.allclose(solution.decision[0], inverse / inverse.sum(), rtol=1e-13)
    equal = solve(MeanVariancePortfolio(4), scenarios / spread)
    assert torch.allclose(equal.decision, torch.full_like(equal.decision, 0.25), rtol=1e-13)


@pytest.mark.parametrize("risk_aversion", [0.0, 1e-6])
def test_without_risk_aversion_everything_is_on_the_asset_of_best_mean(
    risk_aversion: float,
) -> None:
    scenarios = _returns(16, 20, 30)
    program = MeanVariancePortfolio(30, risk_aversion)
    solution = _assert_solved(program, scenarios, _uniform(scenarios))
    best = scenarios.mean(1).argmax(1)
    assert torch.equal(solution.decision, torch.nn.functional.one_hot(best, 30).double())


def test_a_ridge_alone_projects_the_scaled_mean_on_the_simplex() -> None:
    # min ridge/2 |z - m/ridge|^2: m / ridge = (0.7, 0.6, 0.1) projects to (0.55, 0.45, 0).
    scenarios = torch.tensor([[[1.4, 1.2, 0.2]]], dtype=torch.float64)
    program = MeanVariancePortfolio(3, risk_aversion=0.0, ridge=2.0)
    solution = solve(program, scenarios)
    assert solution.decision.flatten().tolist() == pytest.approx([0.55, 0.45, 0.0], abs=1e-15)
    # mu = 0.15 each: the third asset costs 2 * (0.15 - 0.1) more.
    assert solution.duals.flatten().tolist() == pytest.approx([0.0, 0.0, 0.1], abs=1e-14)


def test_one_scenario_gives_the_return_of_least_cost() -> None:
    # (alpha/2) r^2 - r is least at r = 1 / alpha, which these two assets can reach.
    scenarios = torch.tensor([[[0.2, -0.1, 0.05]]], dtype=torch.float64)
    solution = _assert_solved(
        MeanVariancePortfolio(3, 10.0), scenarios, torch.ones(1, 1, dtype=torch.float64)
    )
    gain = float((scenarios[0, 0] * solution.decision[0]).sum())
    assert gain == pytest.approx(0.1, abs=1e-15)


def test_one_asset_takes_the_whole_budget() -> None:
    solution = _assert_solved(MeanVariancePortfolio(1), *(x := _returns(3, 5, 1), _uniform(x)))
    assert solution.decision.flatten().tolist() == [1.0, 1.0, 1.0]
    assert solution.iterations.tolist() == [0, 0, 0]


# --- against Clarabel ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "num_assets, num_scenarios, risk_aversion",
    [
        (8, 30, 10.0),
        (50, 50, 10.0),
        (50, 50, 200.0),
        (50, 5, 100.0),
        (40, 200, 50.0),
        (20, 1, 30.0),
    ],
)
def test_the_solver_agrees_with_clarabel(
    num_assets: int, num_scenarios: int, risk_aversion: float
) -> None:
    scenarios = _returns(3, num_scenarios, num_assets, seed=num_scenarios)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(3, num_scenarios, dtype=torch.float64, generator=generator) + 0.1
    weights = weights / weights.sum(1, keepdim=True)
    program = MeanVariancePortfolio(num_assets, risk_aversion)
    solution = _assert_solved(program, scenarios, weights)
    reference = solve(program, scenarios, weights, solver="cvxpy")
    given = Instances.of(scenarios, weights)
    ours = program.objective(given, solution.decision)
    theirs = program.objective(given, reference.decision)
    # Costs are about 1e-3; Clarabel's point may be infeasible by its tolerance.
    assert ((ours - theirs).abs() <= 1e-10).all(), (ours - theirs).abs().max()
    if num_scenarios >= num_assets:
        assert torch.allclose(solution.decision, reference.decision, rtol=0, atol=1e-5)
        assert torch.allclose(solution.duals, reference.duals, rtol=0, atol=1e-7)
        assert torch.allclose(solution.equality_duals, reference.equality_duals, rtol=0, atol=1e-7)


def test_a_large_universe_is_solved_to_rounding() -> None:
    scenarios = _returns(4, 100, 392)
    for risk_aversion, least in ((10.0, 2), (100.0, 10)):
        solution = _assert_solved(
            MeanVariancePortfolio(392, risk_aversion), scenarios, _uniform(scenarios), 1e-12
        )
        held = (solution.decision > 0).sum(1)
        assert bool((held >= least).all() & (held <= 60).all())
        assert bool((solution.iterations <= 30).all())


def test_many_scenarios_are_solved_to_rounding_with_and_without_the_matrix() -> None:
    for num_assets in (20, 150):
        scenarios = _returns(2, 160, num_assets)
        _assert_solved(
            MeanVariancePortfolio(num_assets, 80.0), scenarios, _uniform(scenarios), 1e-12
        )


def test_the_subgradients_are_the_gradients_and_balance_the_duals() -> None:
    scenarios = _returns(5, 30, 12)
    weights, program = _uniform(scenarios), MeanVariancePortfolio(12, 60.0)
    solution = solve(program, scenarios, weights)
    expected = program.gradients(Instances.of(scenarios), solution.decision)
    assert torch.equal(solution.subgradients, expected)
    assert solution.at_kink.shape == (5, 30, 0)
    mean = torch.einsum("bm,bmn->bn", weights, solution.subgradients)
    balance = mean - solution.duals + solution.equality_duals
    assert float(balance.abs().max()) <= 1e-15


# --- invariances -----------------------------------------------------------------------------


def test_the_order_of_assets_and_scenarios_does_not_matter() -> None:
    scenarios = _returns(6, 60, 25)
    program = MeanVariancePortfolio(25, 80.0)
    generator = torch.Generator().manual_seed(3)
    assets, days = torch.randperm(25, generator=generator), torch.randperm(60, generator=generator)
    first = solve(program, scenarios).decision
    second = solve(program, scenarios[:, days][:, :, assets]).decision
    assert torch.allclose(first[:, assets], second, rtol=0, atol=1e-11)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_returns_in_other_units_with_alpha_in_theirs_give_the_same_portfolio(unit: float) -> None:
    scenarios = _returns(6, 60, 25)
    first = solve(MeanVariancePortfolio(25, 80.0, 1e-3), scenarios).decision
    second = solve(MeanVariancePortfolio(25, 80.0 / unit, 1e-3 * unit), unit * scenarios).decision
    assert torch.allclose(first, second, rtol=0, atol=1e-11)


def test_a_scenario_twice_is_a_scenario_of_twice_the_weight() -> None:
    scenarios = _returns(4, 40, 15)
    program = MeanVariancePortfolio(15, 80.0)
    twice = solve(program, torch.cat([scenarios, scenarios[:, :10]], dim=1)).decision
    weights = torch.full((4, 40), 1 / 50, dtype=torch.float64)
    weights[:, :10] = 2 / 50
    assert torch.allclose(twice, solve(program, scenarios, weights).decision, rtol=0, atol=1e-11)


@pytest.mark.parametrize("num_scenarios", [60, 10])
def test_a_start_changes_the_steps_and_not_the_cost(num_scenarios: int) -> None:
    scenarios = _returns(8, num_scenarios, 25)
    weights, program = _uniform(scenarios), MeanVariancePortfolio(25, 100.0)
    cold = _assert_solved(program, scenarios, weights)
    given = Instances.of(scenarios)
    best = program.objective(given, cold.decision)
    wrong = torch.randn(8, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    wrong[0], wrong[1], wrong[2, 3] = -1.0, 0.0, math.inf
    for start in (cold.decision, wrong, torch.full_like(wrong, 1 / 25)):
        warm = solve(program, scenarios, weights, start=start)
        assert bool(warm.solved.all())
        cost = program.objective(given, warm.decision)
        assert torch.allclose(cost, best, rtol=1e-12, atol=1e-18)
    warm = solve(program, scenarios, weights, start=cold.decision)
    assert bool((warm.iterations <= 2).all()) and bool((cold.iterations >= 2).any())


# --- batches and bad input -------------------------------------------------------------------


def test_easy_and_hard_instances_of_one_batch_do_not_disturb_each_other() -> None:
    scenarios = _returns(5, 20, 30)
    scenarios[1] = scenarios[1, :1]
    scenarios[2] = 0.0
    scenarios[3] = scenarios[3] * 1e4
    program = MeanVariancePortfolio(30, 100.0)
    together = _assert_solved(program, scenarios, _uniform(scenarios))
    cost = program.objective(Instances.of(scenarios), together.decision)
    for row in range(5):
        one = scenarios[row : row + 1]
        alone = solve(program, one).decision
        value = program.objective(Instances.of(one), alone)
        assert float(value[0]) == pytest.approx(float(cost[row]), rel=1e-12, abs=1e-18)


def test_an_empty_batch_has_an_empty_solution() -> None:
    for num_scenarios in (3, 9):
        solution = solve(
            MeanVariancePortfolio(5), torch.zeros(0, num_scenarios, 5, dtype=torch.float64)
        )
        assert solution.decision.shape == solution.duals.shape == (0, 5)
        assert solution.equality_duals.shape == (0, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_instance_is_named_and_the_others_are_solved(value: float) -> None:
    scenarios = _returns(4, 30, 10)
    program = MeanVariancePortfolio(10, 50.0)
    expected = solve(program, scenarios)
    scenarios[2, 3, 1] = value
    solution = solve(program, scenarios)
    assert solution.status.tolist() == [0, 0, int(Status.INVALID_INPUT), 0]
    rest = [0, 1, 3]
    assert torch.allclose(solution.decision[rest], expected.decision[rest], rtol=0, atol=1e-12)


def test_returns_whose_squares_overflow_are_reported_not_solved() -> None:
    scenarios = _returns(2, 6, 4)
    scenarios[1] = scenarios[1] * 1e200
    for num_scenarios in (3, 6):
        solution = solve(MeanVariancePortfolio(4), scenarios[:, :num_scenarios])
        assert solution.status.tolist() == [Status.SOLVED, Status.NOT_CONVERGED]


def test_a_view_that_is_not_contiguous_is_solved_the_same() -> None:
    scenarios = _returns(3, 40, 10)
    view = scenarios.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not view.is_contiguous()
    program = MeanVariancePortfolio(10, 80.0)
    assert torch.allclose(
        solve(program, view).decision, solve(program, scenarios).decision, rtol=0, atol=1e-12
    )


# --- properties ------------------------------------------------------------------------------

KINDS = [
    "noise",
    "returns",
    "equal assets",
    "nearly equal assets",
    "identical scenarios",
    "rank one",
    "rank two",
    "mixed scales",
    "integers",
    "idle assets",
    "outlier",
    "shifted",
    "zero",
]


def _adversarial(kind: str, y: Tensor, generator: torch.Generator) -> Tensor:
    batch, num_scenarios, size = y.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def uniform() -> Tensor:
        return torch.rand(batch, 1, size, dtype=torch.float64, generator=generator)

    twins = y[:, :, torch.arange(size) // 2]
    if kind == "returns":
        return 5e-4 + 0.015 * y + 0.012 * normal(batch, num_scenarios, 1)
    if kind == "equal assets":
        return twins
    if kind == "nearly equal assets":
        return twins + 1e-9 * y
    if kind == "identical scenarios":
        return y[:, :1].expand_as(y).clone()
    if kind == "rank one":
        return normal(batch, num_scenarios, 1) * normal(batch, 1, size)
    if kind == "rank two":
        return normal(batch, num_scenarios, 2) @ normal(batch, 2, size)
    if kind == "mixed scales":
        return y * 10 ** (6 * uniform() - 3)
    if kind == "integers":
        return y.round()
    if kind == "idle assets":
        return y * (uniform() < 0.5)
    if kind == "outlier":
        return torch.cat([1e3 * y[:, :1], y[:, 1:]], dim=1)
    if kind == "shifted":
        return y + 100
    return 0 * y if kind == "zero" else y


@st.composite
def _programs(draw: st.DrawFn) -> tuple[MeanVariancePortfolio, Tensor, Tensor]:
    """An adversarial program with scenarios and weights of two instances."""
    size = draw(st.sampled_from([1, 2, 3, 8, 30, 70]))
    num_scenarios = draw(st.sampled_from([1, 2, 3, 10, 40]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    y = torch.randn(2, num_scenarios, size, dtype=torch.float64, generator=generator)
    unit = 10.0 ** draw(st.integers(-4, 4))
    y = unit * _adversarial(draw(st.sampled_from(KINDS)), y, generator)
    weights = torch.rand(2, num_scenarios, dtype=torch.float64, generator=generator)
    if draw(st.booleans()):
        weights = torch.where(weights < 0.4, 0.0, weights)
    weights[:, 0] += 0.1
    # In units of the returns, so that every kind meets every regime; or not.
    scale = unit if draw(st.booleans()) else 1.0
    risk_aversion = draw(st.sampled_from([0.0, 1e-6, 0.1, 10.0, 1e4])) / scale
    ridge = draw(st.sampled_from([0.0, 0.0, 1e-6, 0.1])) * scale
    program = MeanVariancePortfolio(size, risk_aversion, ridge)
    return program, y, weights / weights.sum(1, keepdim=True)


def _check(case: tuple[MeanVariancePortfolio, Tensor, Tensor]) -> None:
    program, scenarios, weights = case
    solution = solve(program, scenarios, weights)
    assert bool(solution.solved.all()), solution.residuals
    violation = _violation(program, scenarios, weights, solution)
    assert (violation <= 2e-11).all(), violation


@settings(deadline=None, max_examples=50, derandomize=True)
@given(_programs())
def test_every_instance_is_solved_to_rounding(
    case: tuple[MeanVariancePortfolio, Tensor, Tensor],
) -> None:
    _check(case)


@pytest.mark.slow
@settings(deadline=None, max_examples=2000, derandomize=True)
@given(_programs())
def test_thousands_of_instances_are_solved_to_rounding(
    case: tuple[MeanVariancePortfolio, Tensor, Tensor],
) -> None:
    _check(case)
