"""``solve``: checks the input, picks a solver, and keeps invalid instances out of its way."""

from dataclasses import fields
from functools import singledispatch
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffusion_dfl.programs import (
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
    TwoStageProgram,
)
from diffusion_dfl.programs.batching import is_differentiated
from diffusion_dfl.programs.devices import require_float64
from diffusion_dfl.programs.numbers import Numbers, as_tensor
from diffusion_dfl.programs.smoothing import resolvable
from diffusion_dfl.solvers.box_newton import solve_allocation
from diffusion_dfl.solvers.interior_point import solve_interior_point
from diffusion_dfl.solvers.newsvendor import solve_newsvendor
from diffusion_dfl.solvers.power import solve_power
from diffusion_dfl.solvers.simplex import solve_portfolio
from diffusion_dfl.solvers.solution import Solution
from diffusion_dfl.solvers.transforms import is_transformed, over_merged_batch
from diffusion_dfl.solvers.two_stage import solve_two_stage

SolverName = Literal["auto", "structured", "interior_point", "cvxpy"]
"""Name of a solver, as :func:`solve` takes it."""

SOLVERS: tuple[SolverName, ...] = get_args(SolverName)
"""Every solver's name."""


@torch.no_grad()
def solve(
    program: Program,
    scenarios: Numbers,
    weights: Numbers | None = None,
    bandwidth: Numbers | None = None,
    context: Numbers | None = None,
    *,
    solver: SolverName = "auto",
    start: Numbers | None = None,
) -> Solution:
    """Solve ``z* = argmin_z sum_m omega_m f_s(y_m, z)`` under the program's constraints.

    The whole batch at once, on the scenarios' device. A bad instance does not raise: it is
    reported in ``Solution.status``, and its decision is NaN. There is no gradient:
    :class:`~diffusion_dfl.layers.DecisionLayer` has it.

    Args:
        program: what to solve.
        scenarios: ``(B, M, d_y)`` float64, ``M >= 1``; like the others a tensor, an array or a list.
        weights: ``(B, M)``, non-negative, each row with sum 1; uniform if None.
        bandwidth: ``(B, d_y)``, width of the Gaussian that smooths a kinked program; None or 0
            for the exact program, as is a width too narrow for float64. Smooth programs ignore it.
        context: ``(B, d_x)``, for programs whose constraints depend on it; unused by the others.
        solver: ``auto`` takes the program's structured solver, or the interior point if it has
            none; ``structured`` and ``interior_point`` insist; ``cvxpy`` is the slow reference
            (Clarabel), for exact programs only.
        start: ``(B, n)``, first guess of the decisions, e.g. those of the last epoch. It changes
            iterations, never the optimum; solvers that iterate on nothing ignore it.

    Raises:
        TypeError: scenarios that are not float64, a device without float64, no structured solver
            where one is asked for, or torch.func that would differentiate.
        ValueError: shapes that do not match, or a solver that cannot take this program.
    """
    scenarios, weights, bandwidth, context, start = _checked(
        program, scenarios, weights, bandwidth, context, start
    )
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    if is_transformed():
        return _TransformedSolve.of(program, solver, scenarios, weights, bandwidth, context, start)
    program, scenarios, bandwidth = program.with_context(scenarios, bandwidth, context)
    scenarios, weights, bandwidth = scenarios.detach(), weights.detach(), bandwidth.detach()
    context = None if context is None else context.detach()
    start = (
        None
        if start is None
        else start.detach().nan_to_num(0.0, 0.0, 0.0).clone(memory_format=torch.contiguous_format)
    )
    valid = scenarios.isfinite().all(2).all(1) & weights.isfinite().all(1)
    valid &= bandwidth.isfinite().all(1) & (bandwidth >= 0).all(1) & (weights >= 0).all(1)
    valid &= (weights.sum(1) - 1.0).abs() <= 1e-3
    if context is not None:
        valid &= context.isfinite().all(1)
    limits = program.constraints(scenarios, context)
    valid &= limits.stated
    bandwidth = resolvable(scenarios, bandwidth) if program.kinked else bandwidth * 0.0
    if bool(valid.all()):
        solution = _run(solver, program, scenarios, weights, bandwidth, context, start)
        return solution.without_decision(limits.impossible)
    # A harmless stand-in keeps the batch together; its rows are overwritten below.
    scenarios = torch.where(valid.view(-1, 1, 1), scenarios, 0.0)
    weights = torch.where(valid.view(-1, 1), weights, 1.0 / scenarios.shape[1])
    bandwidth = torch.where(valid.view(-1, 1), bandwidth, 0.0)
    if context is not None:
        context = torch.where(valid.view(-1, 1), context, 0.0)
    solution = _run(solver, program, scenarios, weights, bandwidth, context, start)
    return solution.without_decision(limits.impossible).invalidated(~valid)


class _TransformedSolve(torch.autograd.Function):
    """:func:`solve` for torch.func.vmap, which merges what it vectorises into the batch."""

    @classmethod
    def of(cls, program: Program, solver: SolverName, *data: Tensor | None) -> Solution:
        if any(is_differentiated(part) for part in data):
            raise TypeError("solve() has no gradient; differentiate a DecisionLayer instead")
        # No list, which torch.func would take apart and copy.
        names = SimpleNamespace(of_tensors=())
        found = cls.apply(program, solver, names, *data)
        return Solution(**dict(zip(names.of_tensors, found, strict=True)))

    @staticmethod
    def forward(
        program: Program, solver: SolverName, names: SimpleNamespace, *data: Tensor | None
    ) -> tuple[Tensor, ...]:
        scenarios, weights, bandwidth, context, start = data
        assert scenarios is not None
        solution = solve(
            program, scenarios, weights, bandwidth, context, solver=solver, start=start
        )
        parts = {field.name: getattr(solution, field.name) for field in fields(solution)}
        parts = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
        names.of_tensors = tuple(parts)
        return tuple(parts.values())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return over_merged_batch(_TransformedSolve.apply, info.batch_size, in_dims, arguments)


def _checked(
    program: Program,
    scenarios: Numbers,
    weights: Numbers | None,
    bandwidth: Numbers | None,
    context: Numbers | None,
    start: Numbers | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """The arguments as tensors with their defaults, or an error that names what does not fit."""
    if not isinstance(program, Program):
        raise TypeError(
            f"{program!r} is not a diffusion_dfl.programs.Program; pass an instance of one"
        )
    scenarios = checked_scenarios(scenarios)
    if scenarios.dtype != torch.float64:
        raise TypeError(
            f"scenarios have dtype {scenarios.dtype}; solves need torch.float64 "
            "(DecisionLayer casts for you)"
        )
    batch, num_scenarios, size = scenarios.shape

    def part(name: str, value: Numbers | None, shape: tuple[int, ...]) -> Tensor | None:
        if value is None:
            return None
        found = as_tensor(name, value)
        if not isinstance(value, Tensor):
            found = found.to(scenarios.device)
        if tuple(found.shape) != shape:
            raise ValueError(f"{name} have shape {tuple(found.shape)}; expected {shape}")
        if found.dtype != scenarios.dtype or found.device != scenarios.device:
            raise TypeError(
                f"{name} are {found.dtype} on {found.device}; the scenarios are "
                f"{scenarios.dtype} on {scenarios.device}: convert one of them"
            )
        return found

    context = None if context is None else as_tensor("context", context)
    context = part("context", context, (batch, *(() if context is None else context.shape[1:])))
    if not is_transformed():
        # Functions are tried at numbers, which are known inside of a transform only.
        program.validate(scenarios, context)
    weights = part("weights", weights, (batch, num_scenarios))
    if weights is None:
        weights = scenarios.new_full((batch, num_scenarios), 1.0 / num_scenarios)
    bandwidth = part("bandwidth", bandwidth, (batch, size))
    if bandwidth is None:
        bandwidth = scenarios.new_zeros(batch, size)
    return (
        scenarios,
        weights,
        bandwidth,
        context,
        part("start", start, (batch, program.num_decisions)),
    )


def checked_scenarios(scenarios: Numbers) -> Tensor:
    """Scenarios as a floating tensor ``(B, M, d_y)`` with ``M >= 1``, on a device with float64.

    Raises:
        TypeError, ValueError: what is none.
    """
    scenarios = as_tensor("scenarios", scenarios)
    if not scenarios.is_floating_point():
        raise TypeError(f"scenarios have dtype {scenarios.dtype}; pass floating scenarios")
    require_float64(scenarios.device)
    if scenarios.dim() != 3 or scenarios.shape[1] < 1:
        raise ValueError(
            f"scenarios have shape {tuple(scenarios.shape)}; expected (B, M, d_y), M >= 1"
        )
    return scenarios


def refuse_context(
    program: Program, scenarios: Tensor, context: Tensor | None, solver: str
) -> None:
    """Raise unless constraints are the same without a context: a cvxpy statement knows none.

    Raises:
        ValueError: limits that are functions of the context.
        TypeError: an ``inequality`` that depends on it.
    """
    if program.cost_context:
        raise TypeError(
            f"solver={solver!r} states the program in cvxpy, which knows no context, and the cost "
            "depends on it; use solver='auto'"
        )
    if context is None or not program.contextual:
        return
    plain = program.constraints(scenarios)
    steps = torch.arange(1, program.num_decisions + 1).to(scenarios)
    z = (1.5 + torch.cos(steps * steps)).expand(len(scenarios), -1)
    told = program.constraints(scenarios, context).inequality_values(z)
    try:
        same = torch.equal(plain.inequality_values(z).nan_to_num(), told.nan_to_num())
    except Exception:  # The user's function, of a context that is None.
        same = False
    if not same:
        raise TypeError(
            f"solver={solver!r} states the program in cvxpy, which knows no context, and "
            "inequality(x, z) depends on it; use solver='auto'"
        )


def _run(
    solver: SolverName,
    program: Program,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
    start: Tensor | None,
) -> Solution:
    if solver == "cvxpy":
        # Here, so that training never imports cvxpy.
        from diffusion_dfl.solvers.reference import solve_reference

        refuse_context(program, scenarios, context, "cvxpy")
        return solve_reference(program, scenarios, weights, bandwidth)
    if solver == "interior_point" and not isinstance(program, TwoStageProgram):
        return solve_interior_point(program, scenarios, weights, bandwidth, context, start)
    if solver == "structured" and _structured.dispatch(type(program)) is _unstructured:
        raise TypeError(
            f"{type(program).__name__} has no structured solver; use solver='interior_point'"
        )
    return _structured(program, scenarios, weights, bandwidth, context, start)


@singledispatch
def _structured(
    program: Program,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
    start: Tensor | None,
) -> Solution:
    return solve_interior_point(program, scenarios, weights, bandwidth, context, start)


_unstructured = _structured.dispatch(object)


@_structured.register
def _(
    program: PowerProgram,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
    start: Tensor | None,
) -> Solution:
    return solve_power(program, scenarios, weights, bandwidth)


@_structured.register
def _(
    program: Newsvendor,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
    start: Tensor | None,
) -> Solution:
    return solve_newsvendor(program, scenarios, weights, bandwidth, start)


@_structured.register
def _(
    program: MeanVariancePortfolio,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
    start: Tensor | None,
) -> Solution:
    return solve_portfolio(program, scenarios, weights, bandwidth, start)


@_structured.register
def _(
    program: ProductAllocation,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
    start: Tensor | None,
) -> Solution:
    return solve_allocation(program, scenarios, weights, bandwidth, start)


@_structured.register
def _(
    program: TwoStageProgram,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
    start: Tensor | None,
) -> Solution:
    return solve_two_stage(program, scenarios, weights, context, start)
