"""Inputs such as users write: costs with a domain, torch's losses, arrays, rounded covariances."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer, SolverFailure
from diffusion_dfl.programs import Hinge, TorchProgram, conditional_value_at_risk
from diffusion_dfl.solvers import Status, solve

D = {"dtype": torch.float64}


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, **D, generator=torch.Generator().manual_seed(1))


def square(y: Tensor, z: Tensor) -> Tensor:
    return ((z - y) ** 2).sum()


ONE = torch.ones(1, 3, **D)


@pytest.mark.parametrize(
    ("cost", "free"),
    [
        (lambda y, z: -(y @ z) + (z * z.log()).sum(), lambda y: torch.exp(y - 1)),
        (lambda y, z: -(y * z.log()).sum() + z.sum(), lambda y: y),
        (lambda y, z: -(y @ z) + (z**1.5).sum(), lambda y: (y / 1.5) ** 2),
        (lambda y, z: -(y @ z) + (z**3).sum(), lambda y: (y / 3) ** 0.5),
        (lambda y, z: (y / z).sum() + z.sum(), lambda y: y**0.5),
    ],
    ids=["entropy", "log utility", "impact", "cubic", "reciprocal"],
)
def test_a_cost_whose_domain_is_its_lower_bound_has_its_closed_form(
    cost: Callable[..., Tensor], free: Callable[[Tensor], Tensor]
) -> None:
    y = uniform(4, 10, 3) + 0.1
    layer = DecisionLayer(TorchProgram(3, 3, smooth=cost, lower=0.0))
    scenarios = y.clone().requires_grad_()
    decision = layer(scenarios)
    assert torch.allclose(decision, free(y.mean(1)), atol=1e-7)
    decision.sum().backward()
    mean = y.mean(1).requires_grad_()
    free(mean).sum().backward()
    assert scenarios.grad is not None and mean.grad is not None
    assert torch.allclose(scenarios.grad.sum(1), mean.grad, atol=1e-6)


def test_a_power_with_infinite_curvature_at_its_bound_may_end_there() -> None:
    y = torch.tensor([[[-1.0, 0.6]]], **D).requires_grad_()
    program = TorchProgram(2, 2, smooth=lambda y, z: -(y @ z) + (z**1.5).sum(), lower=0.0)
    decision = DecisionLayer(program)(y)
    assert torch.allclose(decision, torch.tensor([[0.0, 0.16]], **D), atol=1e-9)
    decision.sum().backward()
    assert torch.allclose(y.grad, torch.tensor([[[0.0, 2 * 0.6 / 1.5**2]]], **D), atol=1e-7)


@pytest.mark.parametrize("name", ["mse_loss", "huber_loss", "smooth_l1_loss"])
def test_losses_of_torch_are_costs(name: str) -> None:
    loss = getattr(torch.nn.functional, name)
    y = uniform(4, 5, 3)
    program = TorchProgram(3, 3, smooth=lambda y, z: loss(z, y, reduction="sum"))
    # Residuals within 1 are where the robust losses are quadratic.
    assert torch.allclose(solve(program, y).decision, y.mean(1), atol=1e-9)


@pytest.mark.parametrize(
    ("cost", "word"),
    [
        (lambda y, z: (4 * torch.relu(y - z) + torch.relu(z - y)).sum(), "kink"),
        (lambda y, z: (y - z).abs().sum() + 0.1 * (z @ z), "kink"),
        (lambda y, z: torch.maximum(3 * (y - z), z - y).sum() + z @ z, "kink"),
        (lambda y, z: (y.clamp_min(z)).sum() + z @ z, "kink"),
    ],
    ids=["relu", "abs", "maximum", "clamp"],
)
@pytest.mark.parametrize("bounds", [{}, {"lower": 0.0, "upper": 2.0}, {"lower": 0.0}])
def test_a_kink_inside_smooth_is_refused_by_the_layer_alone(
    cost: Callable[..., Tensor], word: str, bounds: dict[str, Any]
) -> None:
    layer = DecisionLayer(TorchProgram(2, 2, smooth=cost, **bounds))
    with pytest.raises(ValueError, match=r"kink.*declare it in hinges="):
        layer(uniform(8, 100, 2) + 0.1)


@pytest.mark.parametrize(
    "cost",
    [
        lambda y, z: (torch.relu(y - z) ** 2).sum() + (z @ z),
        lambda y, z: torch.nn.functional.softplus(40 * (z - y)).sum() + (z @ z),
        lambda y, z: torch.linalg.vector_norm(z) + ((z - y) ** 2).sum(),
        lambda y, z: (y.clamp_min(0.2) * z**2).sum() + (z - y.abs()).square().sum(),
    ],
    ids=["squared relu", "steep softplus", "norm", "clamp of the outcome"],
)
def test_a_cost_with_a_slope_everywhere_is_taken(cost: Callable[..., Tensor]) -> None:
    assert bool(solve(TorchProgram(2, 2, smooth=cost), uniform(8, 20, 2)).solved.all())


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray, list])
def test_arrays_and_lists_are_numbers_as_tensors_are(kind: Callable[[Any], Any]) -> None:
    program = TorchProgram(
        2,
        2,
        smooth=square,
        hinges=Hinge(kind([1.0, 2.0]), lambda y, z: y - z),
        matrix=kind([[1.0, 1.0]]),
        limit=kind([1.0]),
        lower=kind([0.0, 0.1]),
        upper=kind([0.9, 0.9]),
    )
    y = uniform(3, 4, 2)
    wanted = DecisionLayer(program)(y)
    scenarios = kind(y.tolist())
    assert torch.allclose(DecisionLayer(program)(scenarios, kind([[0.25] * 4] * 3)), wanted)
    if kind is not torch.as_tensor:
        exact = solve(program, scenarios)
        assert torch.equal(exact.decision, solve(program, y).decision)
    tail = conditional_value_at_risk(
        lambda y, z: -(y @ z),
        0.5,
        2,
        2,
        lower=kind([0.0, 0.0]),
        equality_matrix=kind([[1.0, 1.0]]),
        equality_value=kind([1.0]),
    )
    assert bool(solve(tail, y).solved.all())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"lower": [0.0, 0.0, 0.0]}, r"lower has shape \(3,\); expected \(2,\)"),
        ({"matrix": [[1.0, 1.0, 1.0]], "limit": 1.0}, r"matrix has shape \(1, 3\)"),
        ({"matrix": [[1.0, "a"]], "limit": 1.0}, "matrix is list that holds no numbers"),
        ({"matrix": lambda x: x, "limit": 1.0}, "matrix must be numbers"),
    ],
)
def test_parts_of_the_wrong_size_or_kind_are_named(parts: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        TorchProgram(2, 2, smooth=square, **parts)


@pytest.mark.parametrize("scenarios", [np.ones((1, 0, 2)), torch.rand(1, 0, 2), torch.rand(3, 2)])
def test_scenarios_of_no_use_are_named(scenarios: Any) -> None:
    program = TorchProgram(2, 2, smooth=square)
    for call in (DecisionLayer(program), DecisionLayer(program).solve):
        with pytest.raises(
            ValueError, match=r"scenarios have shape .* expected \(B, M, d_y\), M >= 1"
        ):
            call(scenarios)


def _limited(limit: Any, name: str = "limit") -> TorchProgram:
    parts = {"matrix": torch.ones(1, 2), "limit": 1.0, name: limit}
    if name == "equality_value":
        parts["equality_matrix"] = torch.ones(1, 2)
    return TorchProgram(2, 2, smooth=square, **parts)


@pytest.mark.parametrize(
    ("name", "limit", "status"),
    [
        ("limit", float("nan"), Status.INVALID_INPUT),
        ("limit", lambda x: x / x, Status.INVALID_INPUT),
        ("lower", float("nan"), Status.INVALID_INPUT),
        ("upper", [float("nan"), 1.0], Status.INVALID_INPUT),
        ("equality_value", float("inf"), Status.INVALID_INPUT),
        ("limit", -float("inf"), Status.INFEASIBLE),
        ("limit", lambda x: x - torch.inf, Status.INFEASIBLE),
        ("lower", float("inf"), Status.INFEASIBLE),
        ("upper", -float("inf"), Status.INFEASIBLE),
        ("limit", float("inf"), Status.SOLVED),
        ("lower", -float("inf"), Status.SOLVED),
    ],
)
def test_a_limit_that_is_no_number_is_no_missing_limit(
    name: str, limit: Any, status: Status
) -> None:
    program = _limited(limit, name)
    solution = solve(program, torch.full((1, 3, 2), 5.0, **D), context=torch.zeros(1, 1, **D))
    assert solution.status.tolist() == [status]
    assert bool(solution.decision.isfinite().all()) == (status is Status.SOLVED)


def test_one_bad_limit_of_many_leaves_the_other_instances_alone() -> None:
    program = _limited(lambda x: x)
    context = torch.tensor([[1.0], [torch.nan], [-torch.inf], [2.0]], **D)
    layer = DecisionLayer(program, max_failure_share=1.0)
    y = torch.full((4, 3, 2), 5.0, **D).requires_grad_()
    decision = layer(y, context=context)
    assert decision.isnan().all(1).tolist() == [False, True, True, False]
    decision[[0, 3]].sum().backward()
    assert bool(y.grad.isfinite().all())


@pytest.mark.parametrize(("size", "rank"), [(20, 5), (50, 10), (100, 30)])
def test_a_covariance_that_went_through_float32_is_convex(size: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    returns = 0.02 * torch.randn(rank, size, generator=generator)
    covariance = (returns.T @ returns / rank).double()
    assert float(torch.linalg.eigvalsh(covariance)[0]) < 0
    program = TorchProgram(
        size,
        size,
        smooth=lambda y, z: 5 * z @ (covariance @ z) - y @ z,
        lower=0.0,
        equality_matrix=torch.ones(1, size),
        equality_value=1.0,
    )
    mean = 0.001 * torch.randn(4, 10, size, **D, generator=generator)
    assert bool(solve(program, mean).solved.all())
    concave = TorchProgram(
        2, 2, smooth=lambda y, z: z[0] ** 2 - 1e-4 * z[1] ** 2, lower=0.0, upper=1.0
    )
    assert solve(concave, uniform(1, 2, 2)).status.tolist() == [Status.NON_CONVEX]


def test_a_norm_is_a_cost_and_a_constraint() -> None:
    y = 5 * uniform(4, 20, 3)
    penalised = TorchProgram(
        3, 3, smooth=lambda y, z: -(y @ z) + 3 * torch.linalg.vector_norm(z) + 0.5 * (z @ z)
    )
    mean = y.mean(1)
    size = mean.norm(dim=1, keepdim=True)
    assert torch.allclose(solve(penalised, y).decision, mean * (1 - 3 / size), atol=1e-8)
    ball = TorchProgram(
        3,
        3,
        smooth=lambda y, z: -(y @ z),
        inequality=lambda x, z: torch.linalg.vector_norm(z).reshape(1) - 2.0,
        num_inequalities=1,
    )
    assert torch.allclose(solve(ball, y).decision, 2 * mean / size, atol=1e-8)


@pytest.mark.slow
def test_an_optimum_at_the_tip_of_a_norm_is_told_of_and_a_smoothed_norm_is_solved() -> None:
    y, held = uniform(1, 5, 3), torch.tensor([0.3, 0.7, 0.1], **D)

    def program(eps: float) -> TorchProgram:
        def moved(y: Tensor, z: Tensor) -> Tensor:
            return 3 * ((z - held) @ (z - held) + eps**2).sqrt() + 0.1 * ((z - y) ** 2).sum()

        return TorchProgram(3, 3, smooth=moved)

    told = r"not converged.*a norm at its tip: write \|v\| as \(v @ v \+ eps\*\*2\)\.sqrt\(\)"
    with pytest.raises(SolverFailure, match=told):
        DecisionLayer(program(0.0))(y)
    for eps in (1e-3, 1e-6):
        solution = solve(program(eps), y)
        assert bool(solution.solved.all())
        torch.testing.assert_close(solution.decision, held.expand(1, -1), atol=eps, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.06])
@pytest.mark.parametrize(("up", "down"), [(0.9, 1.3), (1.0, 1.0), (0.3, 1.0), (2.0, 7.0)])
def test_two_kinks_of_any_slope_a_scenario(up: float, down: float, scale: float) -> None:
    y = 10 * uniform(60, 10, 1)
    program = TorchProgram(
        1,
        1,
        hinges=[Hinge(3.7, lambda y, z: y - up * z), Hinge(1.3, lambda y, z: down * z - y)],
        lower=0.0,
    )
    layer = DecisionLayer(program, bandwidth_scale=scale)
    decision = layer(y)
    assert layer.statistics.failures == 0
    assert layer.last_solution is not None and int(layer.last_solution.iterations.max()) <= 30
    if scale == 0.0:
        # The optimum of a piecewise linear cost is a kink, or the bound.
        kinks = torch.cat([y[..., 0] / up, y[..., 0] / down, torch.zeros(60, 1, **D)], dim=1)
        every = [program.cost(y, kink.view(-1, 1, 1)).mean(1) for kink in kinks.T]
        reached = program.cost(y, decision.unsqueeze(1)).mean(1)
        assert torch.allclose(reached, torch.stack(every).amin(0), rtol=1e-12)
