"""Gradients of two-stage programs against differences: scenarios, weights, context, learned parts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import (
    Recourse,
    Regulariser,
    TorchProgram,
    TwoStageProgram,
    conditional_value_at_risk,
)
from tests.solvers.two_stage_cases import CASES, D, apart, in_units, uniform

STEP = 1e-5


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, **D, generator=torch.Generator().manual_seed(seed))


def held(analytic: Tensor, ahead: Tensor, here: Tensor, behind: Tensor) -> None:
    """Against central differences where the map has no kink: where both sides agree."""
    left, right = (here - behind) / STEP, (ahead - here) / STEP
    smooth = (left - right).abs() <= 1e-3 * (left.abs() + right.abs()) + 1e-4
    assert int(smooth.sum()) >= 0.7 * len(smooth)
    central = (ahead - behind) / (2 * STEP)
    size = central.abs() + central.abs().mean()
    assert float(((analytic - central).abs() / size)[smooth].max()) < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (place > 0))
        for place, name in enumerate(CASES)
    ],
)
def test_scenarios_weights_and_context(name: str) -> None:
    case = CASES[name]()
    layer = DecisionLayer(case.program)
    batch, num_scenarios, size = case.outcomes.shape
    weights = uniform(batch, num_scenarios, seed=4) + 0.5
    weights = weights / weights.sum(1, keepdim=True)
    towards = normal(batch, case.program.num_decisions, seed=5)
    inputs: list[Tensor | None] = [case.outcomes, weights, case.context]
    ways: list[Tensor | None] = [
        normal(batch, num_scenarios, size, seed=6),
        normal(batch, num_scenarios, seed=7) / num_scenarios,
        None if case.context is None else normal(*case.context.shape, seed=8),
    ]
    ways[1] = ways[1] - ways[1].mean(1, keepdim=True)  # type: ignore[operator, union-attr]
    attached = [None if part is None else part.clone().requires_grad_() for part in inputs]
    decision = layer(attached[0], attached[1], context=attached[2])
    (decision * towards).sum().backward()

    def value(index: int, step: float) -> Tensor:
        moved = list(inputs)
        moved[index] = inputs[index] + step * ways[index]  # type: ignore[operator]
        with torch.no_grad():
            return (layer(moved[0], moved[1], context=moved[2]) * towards).sum(1)

    for index, (part, way) in enumerate(zip(attached, ways, strict=True)):
        if part is None or way is None:
            continue
        assert part.grad is not None
        analytic = (part.grad * way).flatten(1).sum(1)
        held(analytic, *(value(index, k * STEP) for k in (1, 0, -1)))


def learned(parameter: Tensor) -> TwoStageProgram:
    return TwoStageProgram(
        2,
        2,
        Recourse(
            2,
            smooth=lambda y, z, u: (parameter[:2] * u).sum() + 0.3 * (u @ u),
            inequality=lambda y, z, u: y - parameter[2] * z - u,
            lower=0.0,
        ),
        smooth=lambda y, z: z.sum() + 0.2 * (z**2).sum(),
        matrix=[[1.0, 1.0]],
        limit=lambda x: x + parameter[3],
    )


def test_learned_parts() -> None:
    start = torch.tensor([4.0, 3.0, 1.1, 0.4], **D)
    outcomes, context = 3 * uniform(5, 9, 2), 0.5 + uniform(5, 1, seed=1)
    towards, way = normal(5, 2, seed=2), normal(4, seed=3)
    parameter = start.clone().requires_grad_()
    assert learned(parameter).learns(outcomes, context)
    decision = DecisionLayer(learned(parameter))(outcomes, context=context)
    gradient = torch.autograd.grad((decision * towards).sum(), parameter)[0]

    def value(step: float) -> Tensor:
        layer = DecisionLayer(learned(start + step * way))
        return (layer(outcomes, context=context) * towards).sum()

    central = (value(STEP) - value(-STEP)) / (2 * STEP)
    torch.testing.assert_close(gradient @ way, central, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("orders", [4.0, pytest.param(9.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_gradients_do_not_depend_on_the_units_of_a_coordinate(name: str, orders: float) -> None:
    case = CASES[name]()
    of_z = apart(case.program.num_decisions, orders, seed=1)
    of_u = apart(case.program.recourse.num_decisions, orders, seed=2)
    towards = normal(*case.outcomes[:, 0, :1].shape[:1], case.program.num_decisions, seed=4)
    # Of no weights alike, so that no multiplier is 0 by coincidence.
    chance = 0.5 + uniform(*case.outcomes.shape[:2], seed=5)
    gradients = []
    for program, sizes in ((case.program, 1.0), (in_units(case.program, of_z, of_u), of_z)):
        y = case.outcomes.clone().requires_grad_()
        weights = (chance / chance.sum(1, keepdim=True)).requires_grad_()
        decision = DecisionLayer(program)(y, weights, context=case.context)
        gradients.append(torch.autograd.grad((towards * decision / sizes).sum(), (y, weights)))
    for good, found in zip(*gradients, strict=True):
        assert float((found - good).abs().max()) <= 1e-5 * float(good.abs().max())


def test_bounds_pinned_in_an_instance_without_a_decision_leave_the_others_gradients() -> None:
    # A pinned decision is an equality of the solve, of which the solved instances know nothing.
    recourse = Recourse(2, lambda y, z, u: 4 * u.sum(), lambda y, z, u: y - z - u, lower=0.0)
    program = TwoStageProgram(
        2,
        2,
        recourse,
        smooth=lambda y, z: z.sum() + 0.1 * (z @ z),
        lower=lambda x: x[:2],
        upper=lambda x: x[2:4],
        matrix=[[1.0, 1.0]],
        limit=lambda x: x[4:],
    )
    free, pinned = [0.0, 0.0, 1.0, 1.0, 5.0], [0.5, 0.0, 0.5, 1.0, -1.0]
    gradients = []
    for contexts in ([free, pinned], [free]):
        y = uniform(1, 7, 2).repeat(len(contexts), 1, 1).requires_grad_()
        layer = DecisionLayer(program, max_failure_share=1.0)
        layer(y, context=torch.tensor(contexts, **D)).nan_to_num().sum().backward()
        assert y.grad is not None
        gradients.append(y.grad)
    torch.testing.assert_close(gradients[0][:1], gradients[1], atol=1e-9, rtol=0)
    assert not bool(gradients[0][1].any())


def test_costs_have_gradients_of_their_second_stage() -> None:
    case = CASES["substitution"]()
    outcomes = case.outcomes
    decision = 1 + uniform(*outcomes.shape, seed=9)
    inputs = [outcomes.clone().requires_grad_(), decision.clone().requires_grad_()]
    total = case.program.cost(*inputs).sum()
    gradients = torch.autograd.grad(total, inputs, create_graph=True)
    for index, gradient in enumerate(gradients):
        way = normal(*outcomes.shape, seed=10 + index)

        def cost(step: float, index: int = index, way: Tensor = way) -> Tensor:
            moved = [outcomes, decision]
            moved[index] = moved[index] + step * way
            return case.program.cost(*moved).flatten()

        held((gradient.detach() * way).sum(2).flatten(), *(cost(k * STEP) for k in (1, 0, -1)))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradients[1].sum().backward()


def test_a_second_derivative_is_refused() -> None:
    case = CASES["balancing"]()
    outcomes = case.outcomes.clone().requires_grad_()
    decision = DecisionLayer(case.program)(outcomes)
    gradient = torch.autograd.grad(decision.sum(), outcomes, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.sum().backward()


def test_a_regulariser_moves_decisions_and_no_cost() -> None:
    linear = TwoStageProgram(
        1,
        1,
        Recourse(
            1, smooth=lambda y, z, u: 4 * u.sum(), inequality=lambda y, z, u: y - z - u, lower=0.0
        ),
        smooth=lambda y, z: z.sum(),
    )
    outcomes, weights = uniform(4, 16, 1), torch.full((4, 16), 1 / 16, **D).requires_grad_()
    DecisionLayer(linear, regularise=Regulariser(2.0))(outcomes, weights).sum().backward()
    assert weights.grad is not None
    assert float(weights.grad.abs().max()) > 0
    layer = DecisionLayer(linear, regularise=Regulariser(2.0))
    exact = layer.solve(outcomes, exact=True).decision
    torch.testing.assert_close(exact, DecisionLayer(linear)(outcomes), atol=1e-9, rtol=0)
    assert float((layer(outcomes) - exact).abs().min()) > 1e-3


def tail(**parts: Any) -> TorchProgram:
    return conditional_value_at_risk(
        lambda y, z: -(y @ z), 0.8, 3, 3, lower=0.0, upper=[1.0, 0.7, 0.4], **parts
    )


def test_a_tail_is_the_same_in_both_forms() -> None:
    outcomes, towards = normal(6, 20, 3, seed=1), normal(6, 4, seed=2)
    gradients = []
    for program in (tail(), tail(convex=True)):
        inputs = outcomes.clone().requires_grad_()
        layer = DecisionLayer(program, curvature="saa", regularise=Regulariser(0.1))
        decision = layer(inputs)
        (decision * towards).sum().backward()
        gradients.append((decision.detach(), inputs.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_failures_get_no_gradient() -> None:
    case = CASES["substitution"]()
    spoiled = case.outcomes.clone()
    spoiled[2] = torch.nan
    spoiled.requires_grad_()
    layer = DecisionLayer(case.program, max_failure_share=0.5)
    decision = layer(spoiled, context=case.context)
    decision.nan_to_num().sum().backward()
    assert spoiled.grad is not None
    assert bool(decision[2].isnan().all())
    assert float(spoiled.grad[2].abs().max()) == 0
    assert layer.statistics.failures == 1
    replaced = replace(layer.last_solution)  # type: ignore[type-var]
    assert replaced.recourse is not None


def production(**parts: Any) -> TwoStageProgram:
    given: dict[str, Any] = {
        "smooth": lambda y, z, u: 1.2 * u.sum() + 0.2 * (u @ u),
        "inequality": lambda y, z, u: y - z - u,
        "lower": 0.0,
    }
    first = {"smooth": lambda y, z: z.sum() + 0.1 * (z @ z), "lower": 0.0}
    for name, value in parts.items():
        (first if name.startswith("first_") else given)[name.removeprefix("first_")] = value
    return TwoStageProgram(2, 2, Recourse(2, **given), **first)  # type: ignore[arg-type]


def test_a_learned_bound_of_the_recourse_moves_with_it() -> None:
    outcomes, bound = uniform(3, 5, 2), torch.tensor(0.1, **D, requires_grad=True)
    layer = DecisionLayer(production(upper=bound))
    # Where the recourse ends, z makes up for it.
    layer(outcomes).sum().backward()
    assert bound.grad is not None
    assert float(bound.grad) == pytest.approx(-6.0)
    before = float(layer(outcomes).detach().sum())
    with torch.no_grad():
        bound.add_(0.05)
    assert float(layer(outcomes).detach().sum()) == pytest.approx(before - 0.3)


def test_a_scenario_without_weight_has_no_say() -> None:
    outcomes = uniform(2, 4, 2)
    weights = torch.tensor([0.0, 0.2, 0.3, 0.5], **D).expand(2, -1).clone().requires_grad_()
    layer = DecisionLayer(production(upper=0.1))
    far = outcomes.clone()
    far[:, 0] = 100.0
    decision = layer(far, weights)
    decision.sum().backward()
    expected = layer(outcomes[:, 1:], weights[:, 1:].detach())
    torch.testing.assert_close(decision, expected, atol=1e-9, rtol=0)
    assert layer.last_solution is not None
    assert weights.grad is not None
    assert bool((weights.grad[:, 0] == 0).all())
    again = DecisionLayer(production(upper=0.1))
    again(far, weights)
    recourse = again.last_solution.recourse  # type: ignore[union-attr]
    assert bool(recourse[:, 0].isnan().all())  # type: ignore[index]
    assert bool(recourse[:, 1:].isfinite().all())  # type: ignore[index]


def test_what_nothing_depends_on_has_gradient_zero() -> None:
    outcomes = uniform(2, 3, 2).requires_grad_()
    lost = DecisionLayer(production(upper=0.01, first_upper=0.01), max_failure_share=1.0)
    lost(outcomes).nan_to_num().sum().backward()
    assert outcomes.grad is not None
    assert float(outcomes.grad.abs().max()) == 0
    assert DecisionLayer(production())(outcomes[:0]).shape == (0, 2)


def test_costs_refuse_a_second_derivative_and_torch_func() -> None:
    outcome, decision = torch.tensor([[5.0, 5.0]], **D), torch.tensor([[1.0, 2.0]], **D)

    def cost(z: Tensor) -> Tensor:
        return production().cost(outcome, z).sum()

    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.functional.hessian(cost, decision)
    with pytest.raises(TypeError, match=r"torch\.func does not follow"):
        torch.func.grad(cost)(decision)


def test_an_entropy_needs_its_bound() -> None:
    layer = DecisionLayer(production(first_lower=None), regularise=Regulariser(0.5, "entropic"))
    with pytest.raises(ValueError, match="needs decisions that are not negative"):
        layer(uniform(2, 3, 2))


def test_hooks_on_saved_tensors_do_not_reach_the_solve() -> None:
    outcomes = uniform(2, 3, 2).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        decision = DecisionLayer(production())(outcomes)
        (decision.sum() + production().cost(outcomes, decision.unsqueeze(1)).sum()).backward()
    assert outcomes.grad is not None


def test_neighbours_in_a_batch_change_nothing() -> None:
    # Rows whose slopes are the scenarios' own, with an instance of another size and one that fails.
    program = production(inequality=lambda y, z, u: y * (1.2 - z - u) - 0.3)
    outcomes = 0.5 + uniform(4, 5, 2)
    outcomes[2] *= 1e4
    outcomes[3] = torch.nan
    gradients = []
    for rows in ([0, 1], [0, 1, 2, 3]):
        inputs = outcomes[rows].clone().requires_grad_()
        layer = DecisionLayer(program, max_failure_share=1.0)
        layer(inputs)[:2].square().sum().backward()
        assert inputs.grad is not None
        gradients.append(inputs.grad[:2])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-9, rtol=1e-7)
    assert float(gradients[0].abs().max()) > 1e-3
