"""Decisions as functions of torch.autograd, and of torch.func: see :mod:`diffusion_dfl.layers.differentiate`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.layers.adjoint import Degeneracy
from diffusion_dfl.layers.differentiate import Curvature, Gradients, differentiate
from diffusion_dfl.layers.failures import OnFailure, Recovery, solve_or_recover
from diffusion_dfl.layers.two_stage import TwoStageDecision
from diffusion_dfl.programs import Instances, Program, TwoStageProgram
from diffusion_dfl.programs.batching import is_differentiated
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks
from diffusion_dfl.programs.once import ONCE, FirstOrderOnly
from diffusion_dfl.programs.program import KKTValues, Optimum
from diffusion_dfl.solvers import Solution, SolverName
from diffusion_dfl.solvers.transforms import is_transformed, over_merged_batch

# A decision that changes by this share of its size where scenarios double does not move.
_STILL = 1e-12


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
        instances: Instances,
        start: Tensor | None,
        options: SolveOptions,
        record: SolveRecord,
    ) -> Tensor:
        """z*, ``(B, n)``, attached to the graph of whatever requires a gradient."""
        program, instances = program.with_context(instances)
        convolved = options.curvature == "convolved" and program.kinked
        instances = instances.resolvable() if convolved else instances.exact()
        *data, context = instances.parts
        known = None if context is None else context.detach()
        record.transformed = is_transformed()
        decision = cls.apply(program, options, record, start, *data, known)[0]
        if is_transformed():
            _refuse_transformed(program, instances)
            return decision
        solution, values = record.solution, None
        assert solution is not None
        if isinstance(program, TwoStageProgram):
            return TwoStageDecision.decide(program, solution, instances, record.count)
        if torch.is_grad_enabled():
            values = _learned(program, solution, instances)
        if values is None:
            return decision
        _refuse_learned(options)
        conditions = (values.stationarity, values.inequalities, values.equalities, values.arguments)
        return _LearnedDecision.apply(program, solution, options, record, *data, known, *conditions)

    @staticmethod
    def forward(
        program: Program,
        options: SolveOptions,
        record: SolveRecord,
        start: Tensor | None,
        *data: Any,
    ) -> tuple[Tensor, ...]:
        with torch.no_grad(), without_saved_tensor_hooks():
            record.solution, record.recovery = solve_or_recover(
                program,
                Instances(*data),
                solver=options.solver,
                start=start,
                on_failure=options.on_failure,
            )
        return _parts_of(record.solution)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.program, ctx.options, ctx.record, _, *data = inputs
        ctx.mark_non_differentiable(*output[1:])
        saved = (*data, *output)
        if not ctx.record.transformed:
            saved, ctx.context, ctx.solution = tuple(data[:3]), data[3], ctx.record.solution
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad_decision: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        data, parts = _kept(ctx)
        how = (ctx.program, ctx.options, ctx.record.count)
        found = _Adjoint.apply(*how, grad_decision, *data, *parts)
        return (None, None, None, None, *found, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """One adjoint a coordinate of the decision, all in one batch: its inner product with the tangents."""
        data, parts = _kept(ctx)
        decision = parts[0]
        batch, size = decision.shape
        eye = torch.eye(size, dtype=decision.dtype, device=decision.device)
        towards = eye.unsqueeze(1).expand(-1, batch, -1).flatten(0, 1)

        def every(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.repeat(size, *[1] * (value.dim() - 1))

        repeated = (*map(every, data), *map(every, parts))
        found = _Adjoint.apply(ctx.program, ctx.options, None, towards, *repeated)
        moved = torch.zeros_like(towards[:, 0])
        for gradient, tangent in zip(found, tangents[4:7], strict=True):
            if tangent is not None:
                moved = moved + (gradient * every(tangent)).flatten(1).sum(1)
        return moved.view(size, batch).T, *[None] * (len(parts) - 1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return over_merged_batch(ImplicitDecision.apply, info.batch_size, in_dims, arguments)


def _kept(ctx: Any) -> tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]:
    """The parts of the instances and of the solution."""
    if ctx.record.transformed:
        return ctx.saved_tensors[:4], ctx.saved_tensors[4:]
    return (*ctx.saved_tensors, ctx.context), _parts_of(ctx.solution)


def _parts_of(solution: Solution) -> tuple[Tensor, ...]:
    """What a gradient needs of a solution, the decision first; what it lacks is a tensor ``(B,)``."""
    none = torch.zeros_like(solution.decision[:, :1].sum(1))
    return (
        solution.decision.clone(),
        solution.duals,
        solution.equality_duals,
        solution.subgradients,
        solution.at_kink,
        solution.status,
        none if solution.shares is None else solution.shares,
        none.clone() if solution.hessian is None else solution.hessian,
    )


class _Adjoint(torch.autograd.Function):
    """Gradients in scenarios, weights and bandwidth from that in the decision; not to be differentiated."""

    @staticmethod
    def forward(
        program: Program,
        options: SolveOptions,
        count: Callable[[Degeneracy, Tensor], None] | None,
        grad_decision: Tensor,
        *parts: Any,
    ) -> tuple[Tensor, ...]:
        instances = Instances(*parts[:4])
        decision, duals, equality_duals, subgradients, held, status, shares, hessian = parts[4:]
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
            hessian=None if hessian.dim() == 1 else hessian,
        )
        with torch.no_grad(), without_saved_tensor_hooks():
            found = differentiate(program, solution, instances, grad_decision, options.curvature)
            _counted(count, found, solution, instances, grad_decision)
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
    instances: Instances,
    grad_decision: Tensor,
) -> None:
    if count is not None:
        moved = (found.scenarios * instances.scenarios).flatten(1).abs().amax(1)
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
        *parts: Any,
    ) -> Tensor:
        ctx.program, ctx.solution, ctx.options, ctx.record = program, solution, options, record
        ctx.save_for_backward(*parts[:4])
        return solution.decision.clone()

    @staticmethod
    def backward(ctx: Any, grad_decision: Tensor) -> tuple[Tensor | None, ...]:
        instances = Instances(*ctx.saved_tensors)
        with torch.no_grad(), without_saved_tensor_hooks():
            found = differentiate(
                ctx.program,
                ctx.solution,
                instances,
                grad_decision,
                ctx.options.curvature,
                learned=True,
            )
            _counted(ctx.record.count, found, ctx.solution, instances, grad_decision)
        gradients = [found.scenarios, found.weights, found.bandwidth, *found.conditions]
        if torch.is_grad_enabled():
            # create_graph=True: the gradients may be used, but not differentiated.
            inputs = instances.parts[:3]
            gradients = [FirstOrderOnly.apply(g, grad_decision, *inputs) for g in gradients]
        return (None, None, None, None, *gradients[:3], None, *gradients[3:])


def _refuse_transformed(program: Program, instances: Instances) -> None:
    """Raise for what a transform of torch.func would differentiate in without being told."""
    if isinstance(program, TwoStageProgram):
        raise TypeError(
            "TwoStageProgram is differentiated by autograd alone; batch its instances in the first "
            "dimension of the scenarios instead of by torch.func"
        )
    # Made anew, so that it belongs to no transform.
    y, context = instances.scenarios, instances.context
    like = torch.ones((), dtype=y.dtype, device=y.device)
    if is_differentiated(context) or program.learns(like, context):
        raise TypeError(
            "torch.func differentiates the layer in scenarios, weights and bandwidth; a context or a "
            "tensor of the program gets its gradient from autograd: call backward(), or detach() it"
        )


def _learned(program: Program, solution: Solution, instances: Instances) -> KKTValues | None:
    """The program's optimality conditions at the solved instances, if they hold a graph."""
    rows = torch.nonzero(solution.solved).flatten()
    if not rows.numel():
        return None
    part = solution.select(rows)
    # With the graph of the context, which is learned in.
    known = replace(instances.detached(), context=instances.context).select(rows)
    optimum = Optimum(part.decision, part.duals, part.equality_duals, part.shares)
    return program.learned(known, optimum)


def _refuse_learned(options: SolveOptions) -> None:
    if options.curvature == "paper":
        raise ValueError(
            "a tensor of the program requires a gradient, and curvature='paper' differentiates no map; "
            "use curvature='convolved' or 'saa', or detach() the tensor"
        )
