"""The allocation solver: closed forms, Clarabel, KKT conditions and invariances."""

import math
import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from diffusion_dfl.programs import Instances, ProductAllocation
from diffusion_dfl.solvers import Solution, Status, box_newton, solve

Array = NDArray[np.float64]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _margins(generator: torch.Generator, batch: int, num_scenarios: int, size: int) -> Tensor:
    """The paper's mixture: 1 with probability 0.8, else -3, plus noise of deviation 0.15."""
    shape = (batch, num_scenarios, size)
    good = torch.rand(shape, dtype=torch.float64, generator=generator) < 0.8
    return torch.where(good, 1.0, -3.0).double() + 0.15 * _normal(generator, *shape)


def _weights(generator: torch.Generator, batch: int, num_scenarios: int) -> Tensor:
    weights = torch.rand(batch, num_scenarios, dtype=torch.float64, generator=generator)
    weights = torch.where(weights < 0.3, 0.0, weights)
    weights[:, 0] += 0.1
    return weights / weights.sum(1, keepdim=True)


def _uniform(scenarios: Tensor) -> Tensor:
    return torch.full(scenarios.shape[:2], 1 / scenarios.shape[1], dtype=torch.float64)


def _objective(scenarios: Array, weights: Array, z: Array) -> float:
    used = weights > 0
    loss = np.log(weights[used]) - scenarios[used] @ z
    return float(loss.max() + np.log(np.exp(loss - loss.max()).sum()))


def _kkt_residual(
    program: ProductAllocation, scenarios: Tensor, weights: Tensor, solution: Solution
) -> float:
    """Largest KKT violation of the batch, by formulas of this test alone.

    Slopes are relative to the largest margin of the instance.
    """
    worst = 0.0
    lower, upper = solution.duals.split(program.num_decisions, dim=1)
    for b in range(len(scenarios)):
        y, w, z = (t[b].numpy() for t in (scenarios, weights, solution.decision))
        low, high, own = lower[b].numpy(), upper[b].numpy(), solution.subgradients[b].numpy()
        used = w > 0
        loss = np.log(w[used]) - y[used] @ z
        shares = np.exp(loss - loss.max())
        shares /= shares.sum()
        gradient = -(shares @ y[used])
        scale = np.abs(y[used]).max() + 1e-300
        assert np.abs(w @ own - gradient).max() <= 1e-9 * scale
        assert (z >= 0).all() and (z <= program.capacity).all()
        assert (low >= 0).all() and (high >= 0).all()
        assert (low * z == 0).all() and (high * (program.capacity - z) == 0).all()
        worst = max(worst, float(np.abs(gradient - low + high).max() / scale))
    return worst


def _clarabel(program: ProductAllocation, scenarios: Array, weights: Array) -> Array | None:
    """The reference's decision, or None if Clarabel gives up on its exponential cones."""
    problem, z, _ = program.cvxpy_problem(scenarios, weights)
    for tolerance in (1e-12, 1e-10, 1e-9, 1e-8):
        options = {f"tol_{name}": tolerance for name in ("gap_abs", "gap_rel", "feas")}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Solution may be inaccurate")
            try:
                problem.solve(solver=cp.CLARABEL, max_iter=300, **options)
            except cp.SolverError:
                continue
        if problem.status == cp.OPTIMAL:
            return np.clip(np.asarray(z.value), 0, program.capacity)
    return None


def _compare_with_clarabel(
    program: ProductAllocation, scenarios: Tensor, weights: Tensor, unique: bool
) -> int:
    """Hold every instance against Clarabel; how many it solved."""
    solution = solve(program, scenarios, weights, solver="structured")
    assert bool(solution.solved.all()), solution.report()
    assert _kkt_residual(program, scenarios, weights, solution) <= 1e-10
    compared = 0
    for b in range(len(scenarios)):
        y, w, z = scenarios[b].numpy(), weights[b].numpy(), solution.decision[b].numpy()
        reference = _clarabel(program, y, w)
        if reference is None:
            continue
        compared += 1
        ours, theirs = _objective(y, w, z), _objective(y, w, reference)
        assert ours <= theirs + 1e-12 * (1 + abs(theirs))
        assert theirs <= ours + 1e-7 * (1 + abs(ours))
        if unique:
            assert np.abs(z - reference).max() <= 2e-4 * program.capacity
    return compared


@pytest.mark.parametrize("size, num_scenarios", [(1, 2), (1, 40), (3, 20), (10, 60)])
def test_decisions_agree_with_clarabel(size: int, num_scenarios: int) -> None:
    generator = _generator(size + num_scenarios)
    scenarios = _normal(generator, 6, num_scenarios, size) + 0.3
    scenarios[3:] = _margins(generator, 3, num_scenarios, size)
    weights = _weights(generator, 6, num_scenarios)
    weights[0] = 1 / num_scenarios
    compared = _compare_with_clarabel(ProductAllocation(size), scenarios, weights, unique=True)
    assert compared == 6


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["one", "few", "identical", "integer", "twins", "mixed"])
def test_objectives_agree_with_clarabel_on_special_instances(kind: str, scale: float) -> None:
    generator = _generator(7)
    num_scenarios = {"one": 1, "few": 3}.get(kind, 12)
    scenarios = _normal(generator, 4, num_scenarios, 5)
    if kind == "identical":
        scenarios = scenarios[:, :1].expand(-1, 12, -1)
    elif kind == "integer":
        scenarios = scenarios.round()
    elif kind == "twins":
        scenarios[..., 1] = scenarios[..., 0]
    elif kind == "mixed":
        scenarios = scenarios * torch.logspace(-2, 1, 5, dtype=torch.float64)
    scenarios = scale * scenarios
    compared = _compare_with_clarabel(
        ProductAllocation(5, capacity=1.5), scenarios, _uniform(scenarios), unique=False
    )
    assert compared >= 3


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_one_product_and_two_scenarios_have_a_closed_form(scale: float) -> None:
    # p a exp(-a z) = (1 - p) b exp(b z) at z = log(p a / ((1 - p) b)) / (a + b).
    gain, loss, share = 1.3, 2.1, 0.9
    scenarios = scale * torch.tensor([[[gain], [-loss]]], dtype=torch.float64)
    weights = torch.tensor([[share, 1 - share]], dtype=torch.float64)
    inside = math.log(share * gain / ((1 - share) * loss)) / (gain + loss) / scale
    solution = solve(ProductAllocation(1, capacity=2 * inside), scenarios, weights)
    assert solution.decision.item() == pytest.approx(inside, rel=1e-13)
    assert solution.duals.tolist() == [[0.0, 0.0]]
    tight = solve(ProductAllocation(1, capacity=0.5 * inside), scenarios, weights)
    assert tight.decision.item() == 0.5 * inside
    assert tight.duals[0, 0] == 0 and tight.duals[0, 1] > 0
    reverse = solve(ProductAllocation(1), -scenarios, weights)
    assert reverse.decision.item() == 0
    # There F' = sum_m omega_m (-y_m) of the negated margins: p a - (1 - p) b.
    expected = scale * (share * gain - (1 - share) * loss)
    assert reverse.duals[0].tolist() == pytest.approx([expected, 0.0], rel=1e-14)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_single_scenario_is_answered_by_all_or_nothing_exactly(scale: float) -> None:
    scenarios = scale * _normal(_generator(0), 20, 1, 10)
    for copies in (1, 7):
        solution = solve(ProductAllocation(10, capacity=0.3), scenarios.expand(-1, copies, -1))
        assert bool(solution.solved.all())
        assert torch.equal(solution.decision, 0.3 * (scenarios[:, 0] > 0).double())
        multipliers = torch.cat([-scenarios[:, 0], scenarios[:, 0]], dim=1).clamp_min(0)
        assert torch.allclose(solution.duals, multipliers, rtol=1e-14)


def test_a_product_without_margin_is_not_made_whatever_the_start() -> None:
    generator = _generator(1)
    scenarios = _margins(generator, 5, 200, 4)
    without = solve(ProductAllocation(3), scenarios[..., :3])
    scenarios[..., 3] = 0.0
    start = torch.full((5, 4), 1.0, dtype=torch.float64)
    for solution in (
        solve(ProductAllocation(4), scenarios),
        solve(ProductAllocation(4), scenarios, start=start),
    ):
        assert bool(solution.solved.all())
        assert solution.decision[:, 3].tolist() == [0.0] * 5
        assert torch.allclose(solution.decision[:, :3], without.decision, rtol=1e-12)
    nothing = solve(ProductAllocation(4), torch.zeros_like(scenarios))
    assert bool(nothing.solved.all()) and not bool(nothing.decision.any())


@pytest.mark.parametrize("factor", [1e-4, 1e-2, 3.0, 1e4])
def test_margins_times_k_in_a_box_over_k_give_the_decision_over_k(factor: float) -> None:
    generator = _generator(2)
    scenarios, weights = _margins(generator, 6, 100, 4), _weights(generator, 6, 100)
    one = solve(ProductAllocation(4), scenarios, weights)
    many = solve(ProductAllocation(4, capacity=2.0 / factor), factor * scenarios, weights)
    assert bool(one.solved.all()) and bool(many.solved.all())
    assert torch.allclose(factor * many.decision, one.decision, rtol=1e-9, atol=1e-12)
    assert torch.allclose(many.duals / factor, one.duals, rtol=1e-9, atol=1e-12)


def test_products_and_scenarios_may_be_permuted_split_and_padded() -> None:
    generator = _generator(3)
    scenarios, weights = _margins(generator, 6, 40, 4) + 0.4, _weights(generator, 6, 40)
    program = ProductAllocation(4)
    plain = solve(program, scenarios, weights)
    order = torch.tensor([2, 0, 3, 1])
    permuted = solve(program, scenarios[..., order].flip(1), weights.flip(1))
    assert torch.allclose(permuted.decision, plain.decision[:, order], rtol=0, atol=1e-11)
    split = solve(program, scenarios.repeat(1, 2, 1), torch.cat([0.3 * weights, 0.7 * weights], 1))
    assert torch.allclose(split.decision, plain.decision, rtol=0, atol=1e-11)
    # A scenario without weight changes nothing, however bad it would be.
    padded = solve(
        program,
        torch.cat([scenarios, torch.full_like(scenarios[:, :1], -1e6)], 1),
        torch.cat([weights, torch.zeros_like(weights[:, :1])], 1),
    )
    assert bool(padded.solved.all())
    assert torch.allclose(padded.decision, plain.decision, rtol=0, atol=1e-11)
    assert torch.allclose(padded.subgradients[:, :-1], plain.subgradients, rtol=1e-9, atol=1e-12)


def test_a_start_changes_the_steps_and_not_the_optimum() -> None:
    generator = _generator(4)
    scenarios = _margins(generator, 8, 300, 5)
    program = ProductAllocation(5)
    cold = solve(program, scenarios)
    warm = solve(program, scenarios, start=cold.decision)
    assert bool((warm.iterations == 1).all()) and bool((cold.iterations > 2).all())
    assert torch.equal(warm.decision, cold.decision)
    corner = solve(program, scenarios, start=torch.full_like(cold.decision, 1e3))
    random = solve(program, scenarios, start=2 * torch.rand(8, 5, generator=generator).double())
    for other in (corner, random):
        assert bool(other.solved.all())
        assert torch.allclose(other.decision, cold.decision, rtol=0, atol=1e-11)


def test_a_mixed_batch_is_solved_as_its_instances_are_alone() -> None:
    generator = _generator(5)
    parts = [
        _margins(generator, 1, 8, 4),
        1e4 * _normal(generator, 1, 8, 4),
        1e-4 * _normal(generator, 1, 8, 4),
        torch.zeros(1, 8, 4, dtype=torch.float64),
        (3 * _normal(generator, 1, 8, 4)).round(),
    ]
    program = ProductAllocation(4)
    together = solve(program, torch.cat(parts))
    assert bool(together.solved.all()), together.report()
    for b, part in enumerate(parts):
        alone = solve(program, part)
        assert torch.allclose(together.decision[b], alone.decision[0], rtol=0, atol=1e-10)
        assert torch.allclose(together.duals[b], alone.duals[0], rtol=1e-9, atol=1e-9)


def test_an_invalid_instance_is_reported_and_leaves_the_others_alone() -> None:
    scenarios = _margins(_generator(6), 3, 30, 4)
    clean = solve(ProductAllocation(4), scenarios)
    dirty = scenarios.clone()
    dirty[1, 2, 0] = math.nan
    solution = solve(ProductAllocation(4), dirty)
    assert solution.status.tolist() == [Status.SOLVED, Status.INVALID_INPUT, Status.SOLVED]
    assert bool(solution.decision[1].isnan().all())
    assert torch.allclose(solution.decision[[0, 2]], clean.decision[[0, 2]], rtol=0, atol=1e-12)


def test_an_empty_batch_gives_an_empty_solution() -> None:
    solution = solve(ProductAllocation(4), torch.zeros(0, 5, 4, dtype=torch.float64))
    assert solution.decision.shape == (0, 4) and solution.duals.shape == (0, 8)
    assert solution.subgradients.shape == (0, 5, 4) and solution.residuals.shape == (0, 3)


def test_the_cost_is_smooth_so_no_kink_holds_a_decision() -> None:
    scenarios = _margins(_generator(7), 2, 30, 4)
    solution = solve(ProductAllocation(4), scenarios)
    assert solution.at_kink.shape == (2, 30, 0) and solution.at_kink.dtype == torch.bool
    assert solution.equality_duals.shape == (2, 0)
    widened = solve(ProductAllocation(4), scenarios, None, torch.full((2, 4), 0.7).double())
    assert torch.equal(widened.decision, solution.decision)


def test_large_margins_approach_the_worst_case_linear_program() -> None:
    """``max_m (-y_m' z) + log min omega <= F(z) <= max_m (-y_m' z)`` bounds F* by the LP's value."""
    generator = _generator(8)
    scenarios = 1e4 * (_normal(generator, 12, 6, 5) + 0.3)
    solution = solve(ProductAllocation(5), scenarios)
    assert bool(solution.solved.all()), solution.report()
    for b in range(len(scenarios)):
        y = scenarios[b].numpy()
        rows = np.hstack([-y, -np.ones((6, 1))])
        bounds = [(0, 2)] * 5 + [(None, None)]
        worst = linprog(np.eye(6)[5], A_ub=rows, b_ub=np.zeros(6), bounds=bounds, method="highs")
        ours = _objective(y, np.full(6, 1 / 6), solution.decision[b].numpy())
        assert worst.fun - math.log(6) - 1e-6 <= ours <= worst.fun + 1e-6
    assert _kkt_residual(ProductAllocation(5), scenarios, _uniform(scenarios), solution) <= 1e-10


def test_an_instance_cut_short_is_not_reported_as_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_newton, "_NEWTON_STEPS", 2)
    monkeypatch.setattr(box_newton, "_POLISH_STEPS", 1)
    monkeypatch.setattr(box_newton, "_HOMOTOPY_STEPS", 3)
    scenarios = _margins(_generator(9), 4, 200, 5)
    solution = solve(ProductAllocation(5), scenarios)
    assert solution.status.tolist() == [Status.NOT_CONVERGED] * 4
    assert bool((solution.residuals[:, 0] > 1e-8).all())


def _adversarial(
    seed: int, size: int, num_scenarios: int, scale: float, kind: str
) -> tuple[Tensor, Tensor]:
    """Eight instances of one kind, and weights with zeros among them."""
    generator = _generator(seed)
    scenarios = _normal(generator, 8, num_scenarios, size) + 0.2
    if kind == "mixture":
        scenarios = _margins(generator, 8, num_scenarios, size)
    elif kind == "integer":
        scenarios = (2 * scenarios).round()
    elif kind == "close":
        spread = 10.0 ** (-12 * torch.rand(8, 1, 1, dtype=torch.float64, generator=generator))
        scenarios = scenarios[:, :1] + spread * scenarios
    elif kind == "columns":
        powers = 4 * torch.rand(8, 1, size, dtype=torch.float64, generator=generator) - 2
        scenarios = scenarios * 10.0**powers
    elif kind == "low_rank":
        scenarios = scenarios[..., :1] * scenarios[:, :1]
    return scale * scenarios, _weights(generator, 8, num_scenarios)


def _check_adversarial(seed: int, size: int, num_scenarios: int, scale: float, kind: str) -> None:
    scenarios, weights = _adversarial(seed, size, num_scenarios, scale, kind)
    program = ProductAllocation(size)
    solution = solve(program, scenarios, weights)
    assert bool(solution.solved.all()), solution.report()
    # Exponents of 1e5 are known to 1e-11 only, and so are the shares.
    assert _kkt_residual(program, scenarios, weights, solution) <= 1e-9
    # Convexity: no point of the box is better by more than the slopes allow.
    generator = _generator(seed + 1)
    for _ in range(3):
        other = 2 * torch.rand(8, size, dtype=torch.float64, generator=generator)
        values = [
            program.objective(Instances.of(scenarios, weights), z)
            for z in (solution.decision, other)
        ]
        assert bool((values[0] <= values[1] + 1e-9 * scenarios.abs().amax((1, 2))).all())


_KINDS = ("normal", "mixture", "integer", "close", "columns", "low_rank")
_ADVERSARIAL = given(
    seed=st.integers(0, 2**20),
    size=st.sampled_from([1, 2, 5, 10]),
    num_scenarios=st.sampled_from([1, 2, 3, 8, 40]),
    scale=st.sampled_from([1e-4, 1e-2, 1.0, 1e2, 1e4]),
    kind=st.sampled_from(_KINDS),
)


@settings(max_examples=30, deadline=None, derandomize=True)
@_ADVERSARIAL
def test_adversarial_instances_satisfy_the_kkt_conditions(
    seed: int, size: int, num_scenarios: int, scale: float, kind: str
) -> None:
    _check_adversarial(seed, size, num_scenarios, scale, kind)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, derandomize=True)
@_ADVERSARIAL
def test_thousands_of_adversarial_instances_satisfy_the_kkt_conditions(
    seed: int, size: int, num_scenarios: int, scale: float, kind: str
) -> None:
    _check_adversarial(seed, size, num_scenarios, scale, kind)
