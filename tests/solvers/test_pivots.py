"""Programs of few kinks or decisions: sides change from the first decision on, no interior step is taken."""

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, Instances, TorchProgram
from diffusion_dfl.solvers import Solution, Status, active_set, solve
from diffusion_dfl.solvers.active_set import pivoted

D: dict[str, Any] = {"dtype": torch.float64}
B, M = 24, 20


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, **D, generator=torch.Generator().manual_seed(shape[-1]))


def returns(size: int) -> Tensor:
    return 0.3 * normal(B, 1, size) + normal(B, M, size)


def portfolio(size: int, price: float) -> TorchProgram:
    """Mean and variance, the whole invested, trades at a price."""
    held = torch.full((size,), 1.0 / size, **D)
    hinges = [Hinge(price, lambda y, z: z - held), Hinge(price, lambda y, z: held - z)]
    return TorchProgram(
        size,
        size,
        smooth=lambda y, z: 2.5 * (y @ z) ** 2 - y @ z + 1e-3 * (z @ z),
        hinges=hinges if price else (),
        lower=0.0,
        equality_matrix=np.ones((1, size)),
        equality_value=1.0,
    )


def shop(size: int) -> TorchProgram:
    """Newsvendors of items whose excess is paid for together: many kinks, few decisions."""
    return TorchProgram(
        size,
        size,
        smooth=lambda y, z: 0.05 * (z**2).sum(),
        hinges=[Hinge(8.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: (z - y).sum().reshape(1))],
        lower=0.0,
    )


def tail(size: int) -> TorchProgram:
    """Value at risk of one item, whose last decision has no curvature."""
    weight = 1 / (1 - 0.93)
    return TorchProgram(
        2,
        1,
        smooth=lambda y, z: z[1] + 1e-3 * z[0] ** 2,
        hinges=[
            Hinge(weight, lambda y, z: 5 * (y - z[:1]) - z[1:]),
            Hinge(weight, lambda y, z: z[:1] - y - z[1:]),
        ],
        lower=0.0,
        upper=[8.0, np.inf],
    )


PROGRAMS = {
    "portfolio 4": (portfolio(4, 0.0), returns(4)),
    "portfolio 20": (portfolio(20, 0.0), returns(20)),
    "trades 4": (portfolio(4, 0.02), returns(4)),
    "trades 10": (portfolio(10, 0.002), returns(10)),
    "trades 20": (portfolio(20, 0.002), returns(20)),
    "shop 1": (shop(1), 5 + 2 * normal(B, M, 1)),
    "shop 3": (shop(3), 5 + 2 * normal(B, M, 3)),
    "tail": (tail(2), (5 + 2 * normal(B, M, 1)).abs()),
}


def clarabel(program: TorchProgram, y: np.ndarray, name: str) -> tuple[cp.Problem, cp.Variable]:
    z = cp.Variable(program.num_decisions)
    n = program.num_decisions
    if name.startswith(("portfolio", "trades")):
        cost = 2.5 * cp.sum_squares(y @ z) / M - y.mean(0) @ z + 1e-3 * cp.sum_squares(z)
        price = {"trades 4": 0.02, "trades 10": 0.002, "trades 20": 0.002}.get(name, 0.0)
        cost += price * cp.norm1(z - 1.0 / n)
        return cp.Problem(cp.Minimize(cost), [z >= 0, cp.sum(z) == 1]), z
    if name.startswith("shop"):
        apart = y - np.ones((M, 1)) @ cp.reshape(z, (1, n), order="C")
        cost = (8 * cp.sum(cp.pos(apart)) + cp.sum(cp.pos(-cp.sum(apart, axis=1)))) / M
        cost += 0.05 * cp.sum_squares(z)
        return cp.Problem(cp.Minimize(cost), [z >= 0]), z
    loss = cp.maximum(5 * (y[:, 0] - z[0]), z[0] - y[:, 0])
    cost = z[1] + 1e-3 * cp.square(z[0]) + cp.sum(cp.pos(loss - z[1])) / 0.07 / M
    return cp.Problem(cp.Minimize(cost), [z >= 0, z[0] <= 8]), z


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_optimum_is_found_without_an_interior_step(name: str) -> None:
    program, y = PROGRAMS[name]
    found = solve(program, y, solver="interior_point")
    assert found.solved.all() and found.iterations.max() == 0
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-13)
    for row in range(0, B, 4):
        stated, z = clarabel(program, y[row].numpy(), name)
        stated.solve(solver="CLARABEL", **tight)
        # A price of risk may have an edge of optima.
        mine = program.objective(
            Instances.of(y[row : row + 1]), found.decision[row : row + 1]
        ).item()
        assert mine == pytest.approx(stated.value, rel=1e-9, abs=1e-10)
        if name != "tail":
            assert found.decision[row].numpy() == pytest.approx(z.value, abs=1e-5)


def test_an_instance_that_would_go_in_a_circle_changes_one_side_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, y = portfolio(20, 0.2), returns(20)
    assert (solve(program, y).iterations == 0).all()
    monkeypatch.setattr(active_set, "_PATIENCE", 10**6)
    assert (solve(program, y).iterations > 0).any()


def test_a_program_that_sides_do_not_lead_to_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = portfolio(40, 0.05)
    seen = []

    def watched(*given: Any) -> Any:
        seen.append(pivoted(*given))
        return seen[-1]

    monkeypatch.setattr("diffusion_dfl.solvers.interior_point.pivoted", watched)
    found = solve(program, returns(40))
    ((_, _, through),) = seen
    assert found.solved.all() and not through.any()
    assert found.iterations.max() <= 10


@pytest.mark.parametrize("limit", [-1.0, 3.0])
def test_what_has_no_optimum_is_still_told(limit: float) -> None:
    """A set without a decision, and a cost that falls for ever in one of two decisions."""
    program = TorchProgram(
        2,
        1,
        smooth=lambda y, z: (z[0] - y[0]) ** 2 - (z[1] if limit > 0 else 0.0 * z[1]),
        hinges=[Hinge(1.0, lambda y, z: y - z[:1])],
        lower=[0.0, -np.inf] if limit > 0 else 0.0,
        matrix=np.array([[1.0, 0.0]]) if limit > 0 else np.ones((1, 2)),
        limit=limit,
    )
    found = solve(program, normal(B, M, 1))
    assert set(found.status.tolist()) == {Status.UNBOUNDED if limit > 0 else Status.INFEASIBLE}


def test_gradients_are_those_of_differences() -> None:
    """The certificate, not the way, decides what is differentiated."""
    program, y = PROGRAMS["trades 4"]
    layer = DecisionLayer(program, curvature="saa")
    assert torch.autograd.gradcheck(
        layer, y[:3].clone().requires_grad_(), eps=1e-6, atol=1e-5, fast_mode=True
    )


@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("name", ["trades 4", "shop 3", "tail"])
def test_the_hessian_that_is_kept_is_the_programs(name: str, width: float) -> None:
    program, y = PROGRAMS[name]
    bandwidth = torch.full((B, y.shape[2]), width, **D)
    found = solve(program, y, bandwidth=bandwidth)
    assert found.solved.all() and found.hessian is not None
    own = program.hessian(Instances.of(y, bandwidth=bandwidth), found.decision)
    torch.testing.assert_close(found.hessian, own, rtol=1e-10, atol=1e-10)
    first = torch.arange(3)
    part = found.select(first)
    assert part.hessian is not None and len(part.hessian) == 3
    without = Solution(**{**vars(part), "hessian": None})
    assert found.replaced(first, without).hessian is None
    assert Solution.joined([part, without]).hessian is None


@pytest.mark.parametrize("off", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("slope", [1.0, 1.001])
def test_a_kink_with_an_offset_has_the_slopes_of_its_shares(off: float, slope: float) -> None:
    """The program rounds ``y + off - z`` otherwise than its form does: at the kink their sides differ."""
    program = TorchProgram(
        2,
        1,
        smooth=lambda y, z: z[0] + slope * z[1],
        hinges=[Hinge(3.0, lambda y, z: y + off - z)],
        lower=off,
        matrix=np.ones((1, 2)),
        limit=2 * off + 0.1,
    )
    found = solve(program, normal(64, 10, 1))
    assert found.solved.all() and found.residuals[:, 0].max() < 1e-10


@pytest.mark.parametrize("size", [1, 2])
def test_a_cost_of_0_is_the_least_of_one_sided_hinges(size: int) -> None:
    """Every decision above all outcomes is an optimum: nothing is allowed, and nothing is off."""
    program = TorchProgram(size, size, hinges=[Hinge(1.0, lambda y, z: y - z)], upper=10.0)
    y = normal(4, 10, size)
    found = solve(program, y, solver="interior_point")
    assert found.solved.all()
    assert (found.decision >= y.amax(1) - 1e-9).all()


def test_linear_programs_of_two_items_and_many_rows_take_interior_steps() -> None:
    """From vertex to vertex the way is long."""
    linear = TorchProgram(
        2,
        2,
        hinges=[Hinge(8.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)],
        lower=0.0,
        matrix=np.ones((1, 2)),
        limit=8.0,
    )
    rows = np.random.default_rng(0).normal(size=(60, 30))
    dense = TorchProgram(
        30, 30, smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum(), matrix=rows, limit=np.ones(60)
    )
    for program, y in ((linear, 5 + 2 * normal(B, M, 2)), (dense, 3 * normal(B, 5, 30))):
        found = solve(program, y)
        assert found.solved.all() and found.iterations.min() > 0


def test_a_step_without_curvature_passes_all_kinks_up_to_the_quantile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From far away hundreds of kinks are passed in a few steps, not one in each."""
    monkeypatch.setattr("diffusion_dfl.solvers.interior_point._PIVOTS", 5)
    program = TorchProgram(
        1,
        1,
        smooth=lambda y, z: z.sum(),
        hinges=[Hinge(4.0, lambda y, z: y - z)],
        lower=-1e3,
    )
    y = normal(B, 401, 1)
    found = solve(program, y, solver="interior_point")
    assert found.solved.all() and found.iterations.max() == 0
    # 1 = 4 P(y > z).
    torch.testing.assert_close(found.decision, y.sort(1).values[:, 300], rtol=0, atol=1e-12)
