import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("cvxpylayers")

from cvxpylayers.torch import CvxpyLayer

from diffusion_dfl.cones.cvxpylayers import BatchedConeSolver
from diffusion_dfl.layers import DecisionLayer, SolverFailure
from diffusion_dfl.layers.cvxpylayers_backend import CvxpyDecision
from diffusion_dfl.programs import (
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
)
from diffusion_dfl.solvers import Status

F64 = torch.float64
CLARABEL = {
    "solve_method": "Clarabel",
    "tol_gap_abs": 1e-11,
    "tol_gap_rel": 1e-11,
    "tol_feas": 1e-11,
    "mode": "dense",
    "n_jobs_forward": 1,
    "n_jobs_backward": 1,
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def portfolio(size: int, scenarios: int) -> tuple:
    returns, z = cp.Parameter((scenarios, size)), cp.Variable(size)
    cost = 5 * cp.sum_squares(returns @ z) / scenarios - cp.sum(returns @ z) / scenarios
    return cp.Problem(cp.Minimize(cost), [cp.sum(z) == 1, z >= 0]), [returns], [z]


def ball_problem(size: int) -> tuple:
    """Several parameters, a second-order cone, and duals among what is returned."""
    cost, shape, radius = cp.Parameter(size), cp.Parameter((size, size)), cp.Parameter(nonneg=True)
    x = cp.Variable(size)
    limits = [cp.norm(shape @ x) <= radius, cp.sum(x) >= -0.5]
    problem = cp.Problem(cp.Minimize(cost @ x + 0.1 * cp.norm(x - 1)), limits)
    duals = [limit.dual_variables[0] for limit in limits]
    return problem, [cost, shape, radius], [x, *duals]


def ball_values(batch: tuple[int, ...], size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=F64)

    eye = 3 * torch.eye(size, dtype=F64)
    return [normal(*batch, size), normal(*batch, size, size) + eye, normal(*batch).abs() + 1]


def pulled(layer: CvxpyLayer, values: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of a fixed combination of them."""
    inputs = [value.clone().requires_grad_() for value in values]
    outputs = layer(*inputs)
    total = sum(
        (part * torch.cos(torch.arange(part.numel())).view_as(part)).sum() for part in outputs
    )
    total.backward()
    return [part.detach() for part in outputs], [value.grad for value in inputs]


def slope(layer: CvxpyLayer, values: list[Tensor], steps: list[Tensor]) -> float:
    """Central difference of the same combination."""

    def total(sign: float) -> float:
        moved = [value + sign * 1e-6 * step for value, step in zip(values, steps, strict=True)]
        parts = layer(*moved)
        return sum(
            (part * torch.cos(torch.arange(part.numel())).view_as(part)).sum().item()
            for part in parts
        )

    return (total(1.0) - total(-1.0)) / 2e-6


def returns(batch: int, scenarios: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, scenarios, size, generator=generator, dtype=F64)


@pytest.mark.parametrize("name", ["portfolio", "norm ball", "norm ball, unbatched"])
def test_solutions_and_gradients_are_clarabels(name: str) -> None:
    if name == "portfolio":
        parts, values = portfolio(6, 10), [returns(4, 10, 6)]
    else:
        parts, values = ball_problem(4), ball_values((3,) if name == "norm ball" else (), 4)
    ours = pulled(CvxpyLayer(*parts, solver=BatchedConeSolver()), values)
    theirs = pulled(CvxpyLayer(*parts, solver_args=CLARABEL), values)
    for mine, other in zip(ours[0] + ours[1], theirs[0] + theirs[1], strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["portfolio", "norm ball"])
def test_gradients_are_central_differences(name: str) -> None:
    if name == "portfolio":
        parts, values = portfolio(6, 10), [returns(4, 10, 6)]
    else:
        parts, values = ball_problem(4), ball_values((3,), 4)
    layer = CvxpyLayer(*parts, solver=BatchedConeSolver())
    generator = torch.Generator().manual_seed(2)
    steps = [torch.randn(v.shape, generator=generator, dtype=F64) for v in values]
    _, gradients = pulled(layer, values)
    along = sum((g * s).sum().item() for g, s in zip(gradients, steps, strict=True))
    assert along == pytest.approx(slope(layer, values, steps), rel=1e-6)


def test_shared_and_batched_parameters_mix() -> None:
    layer = CvxpyLayer(*ball_problem(4), solver=BatchedConeSolver())
    cost, shape, radius = ball_values((3,), 4)
    together, gradients = pulled(layer, [cost, shape[0], radius])
    apart, each = pulled(layer, [cost, shape[:1].expand(3, -1, -1), radius])
    torch.testing.assert_close(together[0], apart[0])
    torch.testing.assert_close(gradients[1], each[1].sum(0))


def test_a_parametric_quadratic_form_has_its_gradient() -> None:
    root, linear, x = cp.Parameter((3, 3), PSD=True), cp.Parameter(3), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, root) + linear @ x), [x >= -1])
    layer = CvxpyLayer(problem, [root, linear], [x], solver=BatchedConeSolver())
    factor = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    matrix = factor @ factor.mT + torch.eye(3, dtype=F64)
    values = [matrix, torch.tensor([[1.0, -2.0, 0.5], [0.3, 9.0, 1.0]], dtype=F64)]
    step = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    steps = [step + step.mT, torch.ones(2, 3, dtype=F64)]
    _, gradients = pulled(layer, values)
    along = sum((g * s).sum().item() for g, s in zip(gradients, steps, strict=True))
    assert along == pytest.approx(slope(layer, values, steps), rel=1e-6)


def test_float32_parameters_get_float32_gradients() -> None:
    layer = CvxpyLayer(*portfolio(6, 10), solver=BatchedConeSolver())
    values = returns(4, 10, 6)
    (expected,), (gradient,) = pulled(layer, [values])
    (single,), (single_gradient,) = pulled(layer, [values.float()])
    assert single_gradient.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single_gradient.double(), gradient, rtol=1e-3, atol=1e-4)


def test_a_second_layer_of_the_same_problem_is_the_same_map() -> None:
    parts, solver = portfolio(6, 10), BatchedConeSolver()
    values = [returns(4, 10, 6)]
    (expected,), (gradient,) = pulled(CvxpyLayer(*parts, solver=BatchedConeSolver()), values)
    for layer in [CvxpyLayer(*parts, solver=solver) for _ in range(2)]:
        (found,), (second,) = pulled(layer, values)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(second, gradient)


def test_one_solver_serves_layers_of_several_problems() -> None:
    solver = BatchedConeSolver()
    first = CvxpyLayer(*portfolio(6, 10), solver=solver)
    second = CvxpyLayer(*ball_problem(4), solver=solver)
    values, other = [returns(4, 10, 6)], ball_values((3,), 4)
    alone = CvxpyLayer(*portfolio(6, 10), solver=BatchedConeSolver())
    second(*other)
    torch.testing.assert_close(pulled(first, values), pulled(alone, values))


@pytest.mark.parametrize(
    "atom, word",
    [
        (lambda x: cp.sum(cp.exp(x)), "exponential"),
        (lambda x: cp.log_sum_exp(x), "exponential"),
        (lambda x: cp.lambda_max(cp.diag(x)), "semidefinite"),
        (lambda x: cp.sum(cp.power(x, 2.3, approx=False)), "power"),
    ],
)
def test_other_cones_are_refused_when_the_layer_is_built(atom: object, word: str) -> None:
    p, x = cp.Parameter(3), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(atom(x) + p @ x), [x >= 0])  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"{word} cones.*Clarabel"):
        CvxpyLayer(problem, [p], [x], solver=BatchedConeSolver())


@pytest.mark.parametrize("kind", ["integer", "boolean"])
def test_integers_are_refused_by_cvxpy_when_the_layer_is_built(kind: str) -> None:
    """It looks for a chain to Clarabel before cvxpylayers tells its solver of the problem."""
    p, x = cp.Parameter(3), cp.Variable(3, **{kind: True})
    problem = cp.Problem(cp.Minimize(p @ x), [x >= 0, x <= 1])
    with pytest.raises(cp.SolverError, match="CLARABEL cannot solve this problem"):
        CvxpyLayer(problem, [p], [x], solver=BatchedConeSolver())


def bounded() -> tuple:
    """``min |x - 1|^2`` over ``x >= 1, sum x <= a``: infeasible for a < 2."""
    limit, x = cp.Parameter(), cp.Variable(2)
    return cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= 1, cp.sum(x) <= limit]), [limit], [x]


def test_an_infeasible_instance_raises_by_its_number_or_is_dropped() -> None:
    values = torch.tensor([3.0, 1.0, 4.0], dtype=F64, requires_grad=True)
    with pytest.raises(SolverFailure, match=r"instances 1 \(1 of 3\): infeasible"):
        CvxpyLayer(*bounded(), solver=BatchedConeSolver())(values)
    solver = BatchedConeSolver(on_failure="drop")
    (x,) = CvxpyLayer(*bounded(), solver=solver)(values)
    assert solver.last_solution is not None
    assert solver.last_solution.status.tolist() == [0, int(Status.INFEASIBLE), 0]
    assert x[1].isnan().all()
    torch.nan_to_num(x).sum().backward()
    assert values.grad is not None and values.grad.isfinite().all()


def test_solver_arguments_are_refused() -> None:
    layer = CvxpyLayer(*bounded(), solver=BatchedConeSolver())
    with pytest.raises(ValueError, match="takes no solver_args"):
        layer(torch.tensor([3.0], dtype=F64), solver_args={"eps": 1e-3})
    with pytest.raises(ValueError, match="on_failure"):
        BatchedConeSolver(on_failure="ignore")  # type: ignore[arg-type]


PROGRAMS = {
    "power": PowerProgram(num_decisions=6),
    "power, ramps bind": PowerProgram(num_decisions=6, ramp=0.05),
    "portfolio": MeanVariancePortfolio(num_decisions=5),
    "newsvendor": Newsvendor(),
    "allocation": ProductAllocation(num_decisions=3),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_back_end_agrees_with_the_structured_solver(name: str) -> None:
    program = PROGRAMS[name]
    generator = torch.Generator().manual_seed(0)
    shape = (4, 9, program.num_outcomes)
    scenarios = torch.rand(shape, generator=generator, dtype=F64) + 0.5
    results = []
    for decide in (
        DecisionLayer(program, curvature="saa"),
        lambda y: CvxpyDecision.of(program, 9)(y)[0],
    ):
        inputs = scenarios.clone().requires_grad_()
        decision = decide(inputs)
        (decision * torch.cos(torch.arange(decision.shape[1]))).sum().backward()
        results.append((decision.detach(), inputs.grad))
    # diffcp differentiates by lsqr with a tolerance of its own.
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=2e-3)


def test_back_end_leaves_out_what_it_cannot_solve() -> None:
    module = CvxpyDecision(PowerProgram(num_decisions=4), 5)
    scenarios = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0))
    expected, _ = module(scenarios)
    broken = scenarios.clone()
    broken[1, 2, 3] = torch.nan
    broken.requires_grad_()
    decision, status = module(broken)
    assert status.tolist() == [0, int(Status.INVALID_INPUT), 0]
    assert decision.dtype == F64
    assert decision[1].isnan().all()
    torch.testing.assert_close(decision[[0, 2]], expected[[0, 2]])
    torch.nan_to_num(decision).sum().backward()
    assert broken.grad is not None and broken.grad.dtype == torch.float32
    assert (broken.grad[1] == 0).all()
    assert (broken.grad[0] != 0).any()


class _Impossible(PowerProgram):
    """Demands at least its outcome and at most 1."""

    def cvxpy_problem(self, scenarios, weights):  # type: ignore[no-untyped-def]
        z = cp.Variable(self.num_decisions)
        limits = [z >= scenarios[0], z <= 1]
        return cp.Problem(cp.Minimize(cp.sum_squares(z)), limits), z, limits


class _Unbounded(PowerProgram):
    """Falls without end where the outcome is positive."""

    def cvxpy_problem(self, scenarios, weights):  # type: ignore[no-untyped-def]
        z = cp.Variable(self.num_decisions)
        return cp.Problem(cp.Minimize(scenarios[0] @ z), [z <= 1]), z, [z <= 1]


@pytest.mark.parametrize(
    "program, status", [(_Impossible(), Status.INFEASIBLE), (_Unbounded(), Status.UNBOUNDED)]
)
def test_back_end_does_not_take_a_certificate_for_a_solution(
    program: PowerProgram, status: Status
) -> None:
    good, bad = (0.5, 2.0) if status is Status.INFEASIBLE else (-0.5, 0.5)
    values = torch.tensor([good, bad], dtype=F64).view(2, 1, 1).repeat(1, 1, 24).requires_grad_()
    decision, found = CvxpyDecision(program, 1)(values)
    assert found.tolist() == [0, int(status)]
    assert decision[1].isnan().all()
    torch.nan_to_num(decision).sum().backward()
    assert values.grad is not None and values.grad.isfinite().all()


def test_an_error_in_one_instance_leaves_the_others_their_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import diffcp

    solve = diffcp.solve_and_derivative_batch

    def fails_on_large(matrices, limits, *rest, **options):  # type: ignore[no-untyped-def]
        if any(np.abs(limit).max() > 50 for limit in limits):
            raise diffcp.SolverError("made up")
        return solve(matrices, limits, *rest, **options)

    monkeypatch.setattr(diffcp, "solve_and_derivative_batch", fails_on_large)
    module = CvxpyDecision(PowerProgram(num_decisions=4), 5)
    scenarios = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    scenarios[1] += 100.0
    scenarios.requires_grad_()
    decision, status = module(scenarios)
    assert status.tolist() == [0, int(Status.NOT_CONVERGED), 0]
    torch.nan_to_num(decision).sum().backward()
    assert scenarios.grad is not None
    # Translation: the decision moves with the scenarios, one for one.
    torch.testing.assert_close(
        scenarios.grad.sum((1, 2)), torch.tensor([4.0, 0, 4], dtype=F64), rtol=0, atol=1e-3
    )


def test_shapes_and_empty_batches() -> None:
    module = CvxpyDecision(PowerProgram(num_decisions=4), 5)
    assert module(torch.zeros(0, 5, 4))[0].shape == (0, 4)
    with pytest.raises(ValueError, match=r"expected \(B, 5, 4\)"):
        module(torch.zeros(2, 6, 4))


def test_the_module_of_a_program_is_made_once() -> None:
    program = PowerProgram(num_decisions=4)
    assert CvxpyDecision.of(program, 5) is CvxpyDecision.of(PowerProgram(num_decisions=4), 5)
    assert CvxpyDecision.of(program, 5) is not CvxpyDecision.of(program, 6)


_Q = cp.Parameter(2)
_X = cp.Variable(2)
_AT_ZERO: dict[str, tuple[cp.Problem, float]] = {
    # With the factor of q in the solution where no constraint binds.
    "non-negative least squares": (
        cp.Problem(cp.Minimize(cp.sum_squares(_X - _Q)), [_X >= 0]),
        1.0,
    ),
    "box": (cp.Problem(cp.Minimize(cp.sum_squares(_X - _Q)), [_X >= 0, _X <= 1]), 1.0),
    "linear": (cp.Problem(cp.Minimize(cp.sum_squares(_X) - _Q @ _X), [_X >= 0, _X <= 1]), 0.5),
    "budget": (
        cp.Problem(cp.Minimize(cp.sum_squares(_X) - _Q @ _X), [_X >= 0, cp.sum(_X) <= 1]),
        0.5,
    ),
    "ball": (cp.Problem(cp.Minimize(cp.sum_squares(_X - _Q)), [cp.norm(_X) <= 1]), 1.0),
    "no constraint": (cp.Problem(cp.Minimize(cp.sum_squares(_X) - _Q @ _X)), 0.5),
}


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e-8, 1e-4])
@pytest.mark.parametrize("name", list(_AT_ZERO))
def test_a_solution_that_vanishes_with_its_input_is_solved(name: str, value: float) -> None:
    problem, factor = _AT_ZERO[name]
    layer = CvxpyLayer(problem, [_Q], [_X], solver=BatchedConeSolver())
    q = torch.tensor([[value, 0.5 * value], [1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    (x,) = layer(q)
    expected = factor * q.detach()
    if name == "ball":
        expected[1] = q.detach()[1] / q.detach()[1].norm()
    assert torch.allclose(x, expected, rtol=1e-6, atol=1e-14)
    x[0].sum().backward()
    assert q.grad is not None and bool(q.grad.isfinite().all())
    if value:
        assert torch.allclose(q.grad[0], torch.full_like(q.grad[0], factor), rtol=1e-5)


def hinged(scenarios: int) -> tuple:
    y, z = cp.Parameter(scenarios), cp.Variable(1)
    return cp.Problem(cp.Minimize(cp.sum(cp.pos(y - z)) + cp.sum_squares(z))), [y], [z]


@pytest.mark.parametrize("scenarios", [30, 400])
def test_a_problem_too_large_for_dense_cones_is_told_so_when_it_is_built(
    scenarios: int, caplog: pytest.LogCaptureFixture
) -> None:
    CvxpyLayer(*hinged(scenarios), solver=BatchedConeSolver())
    assert "BatchedConeSolver is for many small problems, of up to about 64" in caplog.text
    # z and an epigraph variable of every hinge, with two rows each.
    assert f"this one has {scenarios + 1} variables and {2 * scenarios} rows" in caplog.text
    assert "CvxpyLayer(..., solver_args={'solve_method': 'Clarabel'})" in caplog.text


def test_a_small_problem_is_told_of_small_batches_alone_and_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = CvxpyLayer(*hinged(10), solver=BatchedConeSolver())
    layer(torch.rand(64, 10, dtype=F64))
    assert not caplog.text
    for _ in range(2):
        layer(torch.rand(3, 10, dtype=F64))
    assert caplog.text.count("BatchedConeSolver is for batches: this call has 3 instances") == 1
