"""Implicit differentiation of the KKT system (Eq. 5 and Eq. 9 from the same adjoint).

At a solution the binding rows R hold with equality and

    sum_m omega_m grad_z f(y_m, z) + R' v = 0.

One solve of the transposed system ``[H R'; R 0] [u; v] = [dL/dz; 0]`` an instance gives

    dL/dy_m     = -omega_m f_zy(y_m, z)' u          (pathwise, Eq. 5)
    dL/domega_m = -u' grad_z f(y_m, z) = w_m        (score weights, Eq. 9 and 10)
    dL/ds       = -(d/ds sum_m omega_m grad_z f_s)' u.

A kinked program in exact form has decisions that sit on a scenario's kink ``a(y_m, z) = 0``. That
kink is a row of R, and its multiplier reaches the scenario: ``dL/dy_m = -v grad_y a``.

Curvature (``curvature=``):
    ``convolved``  the program is solved in its Gaussian-convolved form and all derivatives are its;
    ``saa``        the exact sample program and its exact derivatives;
    ``paper``      the exact program with the derivatives the paper prints: kinks left out of H and
                   of the cross term, a 0/1 mask in the gradients. It is the derivative of no map,
                   and exists for comparison.

Where the map has a kink of its own, one rule each, so that results are reproducible:
a constraint that is tight with a zero multiplier counts as slack; a decision that touches a
scenario whose slope share is 0 or 1 counts as not held by it; tied scenarios share alike;
a rank-deficient set of binding rows is solved by its scaled pseudo-inverse.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_dfl.layers.adjoint import Adjoint, Degeneracy, solve_adjoint
from diffusion_dfl.layers.failures import OnFailure, Recovery, solve_or_recover
from diffusion_dfl.layers.two_stage import TwoStageDecision
from diffusion_dfl.programs import Constraints, Hinges, Program, TwoStageProgram
from diffusion_dfl.programs.batching import is_differentiated
from diffusion_dfl.programs.constraints import transpose_apply
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks
from diffusion_dfl.programs.once import ONCE, FirstOrderOnly
from diffusion_dfl.programs.program import KKTValues, Optimum
from diffusion_dfl.programs.smoothing import resolvable
from diffusion_dfl.solvers import Solution, SolverName
from diffusion_dfl.solvers.transforms import is_transformed, over_merged_batch

# A decision that changes by this share of its size where scenarios double does not move.
_STILL = 1e-12

Curvature = Literal["convolved", "saa", "paper"]


@dataclass(frozen=True)
class SolveOptions:
    """How a batch is solved and differentiated; see :class:`~diffusion_dfl.layers.DecisionLayer`."""

    solver: SolverName = "auto"
    curvature: Curvature = "convolved"
    on_failure: OnFailure = "drop"


@dataclass
class SolveRecord:
    """What a call of :class:`ImplicitDecision` leaves behind.

    Attributes:
        count: called, when instances are differentiated, with their degeneracy and with which of them
            do not move with any scenario ``(B,)``.
        solution, recovery: of the solve.
        transformed: whether a transform of torch.func asks, which sees tensors that are saved alone.
    """

    count: Callable[[Degeneracy, Tensor], None] | None = None
    solution: Solution | None = None
    recovery: Recovery = field(default_factory=Recovery)
    transformed: bool = False


class ImplicitDecision(torch.autograd.Function):
    """``(scenarios, weights, bandwidth) -> z*`` with its vector-Jacobian product.

    Differentiable once in all three, also by torch.func, and in whatever tensors a program's own parts
    hold; a second derivative raises. Instances that were not solved are NaN and get zero gradients. All
    tensors float64; shapes as in :func:`diffusion_dfl.solvers.solve`. Call :meth:`decide`.
    """

    @classmethod
    def decide(
        cls,
        program: Program,
        scenarios: Tensor,
        weights: Tensor,
        bandwidth: Tensor,
        context: Tensor | None,
        start: Tensor | None,
        options: SolveOptions,
        record: SolveRecord,
    ) -> Tensor:
        """z*, ``(B, n)``, attached to the graph of whatever requires a gradient."""
        program, scenarios, bandwidth = program.with_context(scenarios, bandwidth, context)
        if options.curvature == "convolved" and program.kinked:
            bandwidth = resolvable(scenarios, bandwidth)
        else:
            bandwidth = torch.zeros_like(bandwidth)
        known = None if context is None else context.detach()
        data = (scenarios, weights, bandwidth)
        record.transformed = is_transformed()
        decision = cls.apply(program, options, record, known, start, *data)[0]
        if is_transformed():
            _refuse_transformed(program, scenarios, context)
            return decision
        solution, values = record.solution, None
        assert solution is not None
        if isinstance(program, TwoStageProgram):
            return TwoStageDecision.decide(
                program, solution, scenarios, weights, context, record.count
            )
        if torch.is_grad_enabled():
            values = _learned(program, solution, scenarios, weights, bandwidth, context)
        if values is None:
            return decision
        _refuse_learned(options)
        conditions = (values.stationarity, values.inequalities, values.equalities, values.arguments)
        return _LearnedDecision.apply(program, solution, options, record, known, *data, *conditions)

    @staticmethod
    def forward(
        program: Program,
        options: SolveOptions,
        record: SolveRecord,
        context: Tensor | None,
        start: Tensor | None,
        scenarios: Tensor,
        weights: Tensor,
        bandwidth: Tensor,
    ) -> tuple[Tensor, ...]:
        with torch.no_grad(), without_saved_tensor_hooks():
            record.solution, record.recovery = solve_or_recover(
                program,
                scenarios.detach(),
                weights.detach(),
                bandwidth.detach(),
                context,
                solver=options.solver,
                start=start,
                on_failure=options.on_failure,
            )
        return _parts_of(record.solution)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.program, ctx.options, ctx.record, context, _, *data = inputs
        ctx.mark_non_differentiable(*output[1:])
        if ctx.record.transformed:
            saved = (*data, context, *output)
        else:
            saved, ctx.context, ctx.solution = tuple(data), context, ctx.record.solution
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad_decision: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        (scenarios, weights, bandwidth), context, parts = _kept(ctx)
        count = ctx.record.count
        found = _Adjoint.apply(
            ctx.program,
            ctx.options,
            count,
            context,
            grad_decision,
            scenarios,
            weights,
            bandwidth,
            *parts,
        )
        return (None, None, None, None, None, *found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """One adjoint a coordinate of the decision, all in one batch: its inner product with the tangents."""
        data, context, parts = _kept(ctx)
        decision = parts[0]
        batch, size = decision.shape
        eye = torch.eye(size, dtype=decision.dtype, device=decision.device)
        towards = eye.unsqueeze(1).expand(-1, batch, -1).flatten(0, 1)

        def every(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.repeat(size, *[1] * (value.dim() - 1))

        found = _Adjoint.apply(
            ctx.program,
            ctx.options,
            None,
            every(context),
            towards,
            *map(every, data),
            *map(every, parts),
        )
        moved = torch.zeros_like(towards[:, 0])
        for gradient, tangent in zip(found, tangents[5:], strict=True):
            if tangent is not None:
                moved = moved + (gradient * every(tangent)).flatten(1).sum(1)
        return moved.view(size, batch).T, *[None] * (len(parts) - 1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return over_merged_batch(ImplicitDecision.apply, info.batch_size, in_dims, arguments)


def _kept(ctx: Any) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[Tensor, ...]]:
    """Scenarios, weights and bandwidth, the context, and the parts of the solution."""
    if ctx.record.transformed:
        *data, context = ctx.saved_tensors[:4]
        return tuple(data), context, ctx.saved_tensors[4:]
    return ctx.saved_tensors, ctx.context, _parts_of(ctx.solution)


def _parts_of(solution: Solution) -> tuple[Tensor, ...]:
    """What a gradient needs of a solution, the decision first; no shares are a tensor ``(B,)``."""
    shares = solution.shares
    return (
        solution.decision.clone(),
        solution.duals,
        solution.equality_duals,
        solution.subgradients,
        solution.at_kink,
        solution.status,
        torch.zeros_like(solution.decision[:, :1].sum(1)) if shares is None else shares,
    )


class _Adjoint(torch.autograd.Function):
    """Gradients in scenarios, weights and bandwidth from that in the decision; not to be differentiated."""

    @staticmethod
    def forward(
        program: Program,
        options: SolveOptions,
        count: Callable[[Degeneracy, Tensor], None] | None,
        context: Tensor | None,
        grad_decision: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        bandwidth: Tensor,
        *parts: Tensor,
    ) -> tuple[Tensor, ...]:
        decision, duals, equality_duals, subgradients, held, status, shares = parts
        unknown = torch.zeros_like(status)
        solution = Solution(
            decision=decision,
            duals=duals,
            equality_duals=equality_duals,
            subgradients=subgradients,
            at_kink=held,
            status=status,
            iterations=unknown,
            residuals=torch.zeros_like(decision[:, :1]),
            shares=None if shares.dim() == 1 else shares,
        )
        with torch.no_grad(), without_saved_tensor_hooks():
            found = differentiate(
                program,
                solution,
                scenarios,
                weights,
                bandwidth,
                grad_decision,
                context,
                options.curvature,
            )
            _counted(count, found, solution, scenarios, grad_decision)
        return found.scenarios, found.weights, found.bandwidth

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> None:
        raise RuntimeError(ONCE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise RuntimeError(ONCE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return over_merged_batch(_Adjoint.apply, info.batch_size, in_dims, arguments)


def _counted(
    count: Callable[[Degeneracy, Tensor], None] | None,
    found: "Gradients",
    solution: Solution,
    scenarios: Tensor,
    grad_decision: Tensor,
) -> None:
    if count is not None:
        moved = (found.scenarios * scenarios).flatten(1).abs().amax(1)
        size = grad_decision.abs().amax(1) * solution.decision.abs().amax(1)
        count(found.degeneracy, moved <= _STILL * size)


class _LearnedDecision(torch.autograd.Function):
    """z* of a solved program whose optimality conditions hold a graph, which its gradient goes on into."""

    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        solution: Solution,
        options: SolveOptions,
        record: SolveRecord,
        context: Tensor | None,
        scenarios: Tensor,
        weights: Tensor,
        bandwidth: Tensor,
        *conditions: Tensor,
    ) -> Tensor:
        ctx.program, ctx.solution, ctx.options, ctx.record = program, solution, options, record
        ctx.save_for_backward(scenarios, weights, bandwidth, context)
        return solution.decision.clone()

    @staticmethod
    def backward(ctx: Any, grad_decision: Tensor) -> tuple[Tensor | None, ...]:
        scenarios, weights, bandwidth, context = ctx.saved_tensors
        with torch.no_grad(), without_saved_tensor_hooks():
            found = differentiate(
                ctx.program,
                ctx.solution,
                scenarios,
                weights,
                bandwidth,
                grad_decision,
                context,
                ctx.options.curvature,
                learned=True,
            )
            _counted(ctx.record.count, found, ctx.solution, scenarios, grad_decision)
        gradients = [found.scenarios, found.weights, found.bandwidth, *found.conditions]
        if torch.is_grad_enabled():
            # create_graph=True: the gradients may be used, but not differentiated.
            inputs = (scenarios, weights, bandwidth)
            gradients = [FirstOrderOnly.apply(g, grad_decision, *inputs) for g in gradients]
        return (None, None, None, None, None, *gradients)


def _refuse_transformed(program: Program, scenarios: Tensor, context: Tensor | None) -> None:
    """Raise for what a transform of torch.func would differentiate in without being told."""
    if isinstance(program, TwoStageProgram):
        raise TypeError(
            "TwoStageProgram is differentiated by autograd alone; batch its instances in the first "
            "dimension of the scenarios instead of by torch.func"
        )
    # Made anew, so that it belongs to no transform.
    like = torch.ones((), dtype=scenarios.dtype, device=scenarios.device)
    if is_differentiated(context) or program.learns(like, context):
        raise TypeError(
            "torch.func differentiates the layer in scenarios, weights and bandwidth; a context or a "
            "tensor of the program gets its gradient from autograd: call backward(), or detach() it"
        )


def _learned(
    program: Program,
    solution: Solution,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
) -> KKTValues | None:
    """The program's optimality conditions at the solved instances, if they hold a graph."""
    rows = torch.nonzero(solution.solved).flatten()
    if not rows.numel():
        return None
    part = solution.select(rows)
    return program.learned(
        scenarios.detach()[rows],
        weights.detach()[rows],
        bandwidth.detach()[rows],
        None if context is None else context[rows],
        Optimum(part.decision, part.duals, part.equality_duals, part.shares),
    )


def _refuse_learned(options: SolveOptions) -> None:
    if options.curvature == "paper":
        raise ValueError(
            "a tensor of the program requires a gradient, and curvature='paper' differentiates no map; "
            "use curvature='convolved' or 'saa', or detach() the tensor"
        )


class Gradients(NamedTuple):
    """Of a loss: in scenarios, weights and bandwidth, shaped like them; in the values of the optimality
    conditions of the solved instances (:class:`~diffusion_dfl.programs.program.KKTValues`), if asked
    for; and which instances are degenerate."""

    scenarios: Tensor
    weights: Tensor
    bandwidth: Tensor
    conditions: tuple[Tensor, ...]
    degeneracy: Degeneracy


def differentiate(
    program: Program,
    solution: Solution,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    grad_decision: Tensor,
    context: Tensor | None = None,
    curvature: Curvature = "convolved",
    learned: bool = False,
) -> Gradients:
    """Vector-Jacobian product of z*.

    Args:
        program: what was solved.
        solution: its solution.
        scenarios, weights, bandwidth: ``(B, M, d_y)``, ``(B, M)``, ``(B, d_y)``.
        grad_decision: dL/dz*, ``(B, n)``.
        context: ``(B, d_x)``, where constraints depend on it.
        curvature: ``paper`` for the printed formula; the others differ in what was solved only.
        learned: whether gradients in the values of the optimality conditions are wanted.
    """
    given = solution
    solution, scenarios, weights, bandwidth, context = _with_stand_ins(
        solution, scenarios, weights, bandwidth, context
    )
    z = solution.decision
    right = torch.where(solution.solved.unsqueeze(1), grad_decision, 0.0)
    held, subgradients, shares = solution.at_kink, solution.subgradients, solution.shares
    if curvature == "paper":
        held, shares = torch.zeros_like(held), None
        subgradients = program.masked_gradients(scenarios, z, weights)
    hinges = program.hinges(scenarios, bandwidth) if held.shape[2] else None
    point = (scenarios, weights, bandwidth, z)
    hessian = (
        program.hessian(*point) if program.separable else partial(program.hessian_block, *point)
    )
    constraints = program.constraints(z, context)
    adjoint = solve_adjoint(solution, weights, constraints, hessian, hinges, held, right)
    degeneracy = adjoint.degeneracy
    if hinges is not None:
        touching = (hinges.arguments(z) == 0) & (hinges.coefficient > 0) & ~held
        touching = touching & (weights > 0).unsqueeze(2)
        degeneracy = replace(degeneracy, weak=degeneracy.weak | touching.flatten(1).any(1))
    u = adjoint.direction
    cross = program.cross_product(scenarios, bandwidth, z, u, shares, weights)
    in_scenarios = -weights.unsqueeze(-1) * cross
    if adjoint.kink_multipliers is not None and held.shape[2]:
        moved = program.hinge_product(scenarios, z, adjoint.kink_multipliers)
        in_scenarios = in_scenarios - moved
    in_weights = -torch.einsum("bn,bmn->bm", u, subgradients)
    in_bandwidth = -program.bandwidth_product(scenarios, weights, bandwidth, z, u)
    conditions: tuple[Tensor, ...] = ()
    if learned:
        curved = program.hessian(*point)
        conditions = _in_conditions(adjoint, constraints, curved, hinges, solution, held, right)
        rows = torch.nonzero(given.solved).flatten()
        conditions = tuple(part[rows] for part in conditions)
    return Gradients(in_scenarios, in_weights, in_bandwidth, conditions, degeneracy)


def _in_conditions(
    adjoint: Adjoint,
    constraints: Constraints,
    hessian: Tensor,
    hinges: Hinges | None,
    solution: Solution,
    held: Tensor,
    right: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``-(u, v)``: gradients in stationarity, inequalities, equalities and arguments of hinges.

    The multiplier of a bound that binds is what the other terms leave of dL/dz at its coordinate.
    """
    z, u = solution.decision, adjoint.direction
    assert adjoint.rows is not None and adjoint.equalities is not None
    kinks = torch.zeros_like(held, dtype=z.dtype)
    if adjoint.kink_multipliers is not None:
        kinks = adjoint.kink_multipliers
    counts = constraints.counts
    affine, smooth = adjoint.rows.split([counts.affine, counts.smooth], dim=1)
    # Where the optimum stands on the end of its domain, u is 0 and curvature may be infinite.
    bent = torch.einsum("bij,bj->bi", torch.where(u.unsqueeze(1) != 0, hessian, 0.0), u)
    total = bent + transpose_apply(constraints.matrix, affine)
    total = total + transpose_apply(constraints.equality_matrix, adjoint.equalities)
    if constraints.smooth is not None:
        curved = constraints.smooth.hessian(z, solution.duals[:, -counts.smooth :])
        total = total + torch.einsum("bij,bj->bi", curved, u)
        total = total + transpose_apply(constraints.smooth.jacobian(z), smooth)
    if hinges is not None:
        total = total + hinges.scenario_force(kinks).sum(1)
    rest = right - total
    parts = [affine]
    _, low, high, _ = solution.duals.split(list(counts), dim=1)
    if constraints.lower is not None:
        parts.append(torch.where(low > 0, -rest, 0.0))
    if constraints.upper is not None:
        parts.append(torch.where((high > 0) & ~_both(low, high), rest, 0.0))
    rows = torch.cat([*parts, smooth], dim=1)
    return -u, -rows, -adjoint.equalities, -kinks


def _both(low: Tensor, high: Tensor) -> Tensor:
    """Coordinates held by both bounds, which are equal; the lower one carries the multiplier."""
    return (low > 0) & (high > 0) if low.shape == high.shape else torch.zeros_like(high > 0)


def _with_stand_ins(
    solution: Solution,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
) -> tuple[Solution, Tensor, Tensor, Tensor, Tensor | None]:
    """Finite values in place of what belongs to unsolved instances."""
    good = solution.solved
    if bool(good.all()):
        return solution, scenarios, weights, bandwidth, context
    column, block = good.unsqueeze(1), good.view(-1, 1, 1)
    solution = Solution(
        decision=torch.where(column, solution.decision, 0.0),
        duals=torch.where(column, solution.duals, 0.0),
        equality_duals=torch.where(column, solution.equality_duals, 0.0),
        subgradients=torch.where(block, solution.subgradients, 0.0),
        at_kink=solution.at_kink & block,
        status=solution.status,
        iterations=solution.iterations,
        residuals=solution.residuals,
        shares=None if solution.shares is None else torch.where(block, solution.shares, 0.0),
    )
    return (
        solution,
        torch.where(block, scenarios, 0.0),
        torch.where(column, weights, 1.0 / weights.shape[1]),
        torch.where(column, bandwidth, 0.0),
        None if context is None else torch.where(column, context, 0.0),
    )
