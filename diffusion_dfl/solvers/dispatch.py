"""``solve``: checks the input, picks a solver, and keeps invalid instances out of its way."""

from dataclasses import fields, replace
from functools import singledispatch
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffusion_dfl.programs import (
    Instances,
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
    TwoStageProgram,
)
from diffusion_dfl.programs.batching import is_differentiated
from diffusion_dfl.programs.instances import fitting
from diffusion_dfl.programs.numbers import Numbers
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
    if not isinstance(program, Program):
        raise TypeError(
            f"{program!r} is not a diffusion_dfl.programs.Program; pass an instance of one"
        )
    instances = Instances.of(scenarios, weights, bandwidth, context)
    begun = fitting("start", start, instances.scenarios, len(instances), program.num_decisions)
    if is_transformed():
        return _TransformedSolve.of(program, solver, instances, begun)
    return solve_instances(program, instances, solver=solver, start=begun)


def solve_instances(
    program: Program, instances: Instances, *, solver: SolverName, start: Tensor | None = None
) -> Solution:
    """:func:`solve` without its checks of shapes; without a gradient if the caller records none."""
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    if instances.context is not None and not program.contextual:
        # What it does not read may hold anything.
        instances = replace(instances, context=instances.context.nan_to_num(0.0, 0.0, 0.0))
    program.validate(instances)
    program, instances = program.with_context(instances)
    instances = instances.detached()
    if start is not None:
        start = start.detach().nan_to_num(0.0, 0.0, 0.0)
        start = start.clone(memory_format=torch.contiguous_format)
    limits = program.constraints(instances.scenarios, instances.context)
    valid = instances.valid & limits.stated
    instances = program.with_kernels(instances)
    if bool(valid.all()):
        solution = _run(solver, program, instances, start)
        return solution.without_decision(limits.impossible)
    solution = _run(solver, program, instances.stand_in(valid), start)
    return solution.without_decision(limits.impossible).invalidated(~valid)


class _TransformedSolve(torch.autograd.Function):
    """:func:`solve` for torch.func.vmap, which merges what it vectorises into the batch."""

    @classmethod
    def of(
        cls, program: Program, solver: SolverName, instances: Instances, start: Tensor | None
    ) -> Solution:
        data = (start, *instances.parts)
        if any(is_differentiated(part) for part in data):
            raise TypeError("solve() has no gradient; differentiate a DecisionLayer instead")
        # No list, which torch.func would take apart and copy.
        names = SimpleNamespace(of_tensors=())
        found = cls.apply(program, solver, names, *data)
        return Solution(**dict(zip(names.of_tensors, found, strict=True)))

    @staticmethod
    def forward(
        program: Program,
        solver: SolverName,
        names: SimpleNamespace,
        start: Tensor | None,
        *data: Any,
    ) -> tuple[Tensor, ...]:
        solution = solve_instances(program, Instances(*data), solver=solver, start=start)
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


def refuse_context(program: Program, instances: Instances, solver: str) -> None:
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
    y = instances.scenarios
    if instances.context is None or not program.contextual:
        return
    plain = program.constraints(y)
    steps = torch.arange(1, program.num_decisions + 1).to(y)
    z = (1.5 + torch.cos(steps * steps)).expand(len(y), -1)
    told = program.constraints(y, instances.context).inequality_values(z)
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
    solver: SolverName, program: Program, instances: Instances, start: Tensor | None
) -> Solution:
    if solver == "cvxpy":
        # Here, so that training never imports cvxpy.
        from diffusion_dfl.solvers.reference import solve_reference

        refuse_context(program, instances, "cvxpy")
        return solve_reference(program, instances)
    if solver == "interior_point" and not isinstance(program, TwoStageProgram):
        return solve_interior_point(program, instances, start)
    if solver == "structured" and _structured.dispatch(type(program)) is solve_interior_point:
        raise TypeError(
            f"{type(program).__name__} has no structured solver; use solver='interior_point'"
        )
    return _structured(program, instances, start)


_structured = singledispatch(solve_interior_point)
_structured.register(MeanVariancePortfolio, solve_portfolio)
_structured.register(Newsvendor, solve_newsvendor)
_structured.register(PowerProgram, solve_power)
_structured.register(ProductAllocation, solve_allocation)
_structured.register(TwoStageProgram, solve_two_stage)
