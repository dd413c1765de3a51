"""The newsvendor whose items share a limit, against Clarabel, the interior point and differences."""

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Instances, Newsvendor, bandwidth
from diffusion_dfl.solvers import solve
from tests.solvers.newsvendor_cases import demand, random_weights

CLASSICAL = {"c0": 0.0, "q0": 0.0, "cb": 9.0, "rb": 0.0, "ch": 1.0, "rh": 0.0, "z_max": 50.0}
COSTS = {
    "classical": CLASSICAL,
    "paper": {},
    "cubes": {"c0": -1.0, "q0": 0.0, "cb": 3.0, "ch": 0.5, "rh": 7.0},
}


def expected(p: Newsvendor, scenarios: Tensor, weights: Tensor, z: Tensor) -> Tensor:
    return (weights * p.cost(scenarios, z.unsqueeze(1))).sum(1)


@pytest.mark.parametrize(
    ("limit", "uniform"), [(0.5, False), (4.0, True), (4.0, False), (7.0, True), (100.0, False)]
)
@pytest.mark.parametrize("name", COSTS)
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_limited_orders_cost_what_clarabels_do(name: str, uniform: bool, limit: float) -> None:
    p = Newsvendor(num_decisions=4, limit=limit, **COSTS[name])
    scenarios = demand(5, 20, 4)
    weights = random_weights((5, 20), 1, zeros=True)
    if uniform:
        weights = torch.full_like(weights, 1 / 20)
    solution = solve(p, scenarios, weights)
    reference = solve(p, scenarios, weights, solver="cvxpy")
    assert bool(solution.solved.all())
    assert float(solution.decision.sum(1).max()) <= limit * (1 + 1e-14)
    ours, theirs = (
        expected(p, scenarios, weights, s.decision.clamp(0, p.z_max)) for s in (solution, reference)
    )
    assert torch.allclose(ours, theirs, rtol=1e-7)
    assert bool((solution.duals >= 0).all())
    price = solution.duals[:, 0] * (limit - solution.decision.sum(1))
    assert float(price.abs().max()) <= 1e-12


@pytest.mark.parametrize("exact_items", [0, 2])
@pytest.mark.parametrize("name", COSTS)
def test_convolved_limited_orders_are_the_interior_points(name: str, exact_items: int) -> None:
    p = Newsvendor(num_decisions=4, limit=5.0, **COSTS[name])
    scenarios, weights = demand(5, 20, 4), random_weights((5, 20), 2, zeros=False)
    width = bandwidth(scenarios, weights)
    width[:, :exact_items] = 0.0
    found = [solve(p, scenarios, weights, width, solver=s) for s in ("auto", "interior_point")]
    assert all(bool(solution.solved.all()) for solution in found)
    instances = Instances(scenarios, weights, width)
    costs = [p.objective(instances, solution.decision) for solution in found]
    assert torch.allclose(*costs, rtol=1e-10)
    if not exact_items:
        assert torch.allclose(found[0].decision, found[1].decision, atol=1e-7)


def test_a_limit_that_does_not_bind_changes_nothing() -> None:
    scenarios = demand(5, 20, 3)
    for width in (None, bandwidth(scenarios)):
        free = solve(Newsvendor(num_decisions=3), scenarios, None, width)
        limited = solve(Newsvendor(num_decisions=3, limit=15.0), scenarios, None, width)
        assert torch.equal(free.decision, limited.decision)
        assert not limited.duals[:, 0].any()


def test_the_multiplier_is_what_a_unit_more_would_save() -> None:
    scenarios, weights = demand(5, 20, 3), random_weights((5, 20), 3, zeros=False)
    width = bandwidth(scenarios, weights)
    instances, values, step = Instances(scenarios, weights, width), [], 1e-4
    for limit in (4.0 - step, 4.0 + step):
        p = Newsvendor(num_decisions=3, limit=limit)
        values.append(p.objective(instances, solve(p, scenarios, weights, width).decision))
    dual = solve(Newsvendor(num_decisions=3, limit=4.0), scenarios, weights, width).duals[:, 0]
    assert bool((dual > 0).all())
    assert torch.allclose((values[0] - values[1]) / (2 * step), dual, rtol=1e-6)


def test_one_item_between_its_kinks_makes_up_for_what_the_others_kinks_do() -> None:
    """The exact linear program at a vertex: all orders but one rest on scenarios."""
    p = Newsvendor(num_decisions=3, limit=4.0, **CLASSICAL)
    scenarios, weights = demand(4, 15, 3), random_weights((4, 15), 4, zeros=False)
    layer = DecisionLayer(p, curvature="saa")
    generator = torch.Generator().manual_seed(5)
    move = torch.randn(scenarios.shape, dtype=torch.float64, generator=generator)
    direction = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    leaf = scenarios.clone().requires_grad_()
    (direction * layer(leaf, weights)).sum().backward()
    step = 1e-6
    ends = [(direction * layer(scenarios + s * move, weights)).sum() for s in (step, -step)]
    numeric = float(ends[0] - ends[1]) / (2 * step)
    assert float((leaf.grad * move).sum()) == pytest.approx(numeric, rel=1e-6)
    assert abs(numeric) > 0.1


def test_a_limit_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"limit=0 must be a finite number > 0, or None"):
        Newsvendor(limit=0)
