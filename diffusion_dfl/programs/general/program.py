"""A user's own problem as torch functions: no hand-written derivative, no cvxpy at run time.

    min_z  E f(y, z)   s.t.  lower <= z <= upper,  G z <= h(x),  A z = b(x),  c(x, z) <= 0

    f(y, z) = smooth(y, z) + sum_k coefficient_k (a_k(y, z))_+^power_k

(paper, section 3 and Appendix A). Kinks are declared as hinges with arguments affine in z. In the
convolved form an argument is Gaussian with mean a_k and standard deviation

    s_k = sqrt(sum_j (s_j da_k/dy_j)^2),

exact where a_k is affine in y, and its linearisation in y where it is not; convex in z either way.
``smooth`` is not convolved.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import vmap

from diffusion_dfl.programs.arguments import fit_batch, vectors
from diffusion_dfl.programs.batching import is_differentiated, over_batch
from diffusion_dfl.programs.constraints import Constraints, transpose_apply
from diffusion_dfl.programs.general.closed_forms import ClosedForms, generic
from diffusion_dfl.programs.general.feasible_set import FeasibleSet, Limit
from diffusion_dfl.programs.general.hinge_terms import AffineHinge, Hinge, as_hinges
from diffusion_dfl.programs.general.quadratic import QuadraticCost
from diffusion_dfl.programs.general.scenario_cost import ScenarioCost
from diffusion_dfl.programs.general.trial import (
    Segments,
    TrialPoints,
    must_be_batched_alike,
    try_function,
    try_kinks,
)
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.integers import continuous, refuse_integers
from diffusion_dfl.programs.numbers import Numbers
from diffusion_dfl.programs.program import Hinges, KKTValues, Optimum, Program
from diffusion_dfl.sizes import as_size


class TorchProgram(Program):
    """A stochastic convex program stated by torch functions of one scenario. Immutable.

    Functions must vectorise (``torch.where`` instead of ``if``, no ``.item()``, no writing into
    their arguments) and compute in float64, with constants on the scenarios' device. They are
    tried out at the first use, and what does not fit is named. Whether f is convex is the solver's
    business (``Status.NON_CONVEX``).

    Args:
        num_decisions: n.
        num_outcomes: d_y.
        smooth: ``(y (d_y,), z (n,)) -> scalar``, or of ``(y, z, x (d_x,))`` if the cost depends on the
            context, as a known price times a decision does; convex and twice differentiable in z where the bounds
            allow it (an entropy with ``lower=0.``). Kinks (``relu``, ``abs``, ``maximum``) are
            refused: declare them in ``hinges``.
        hinges: the rest of f; one or several.
        matrix, limit: ``G (m, n)`` and ``h (m,)``; like all numbers here a tensor, an array or a list.
        lower, upper: a number or ``(n,)``; entries may be infinite.
        equality_matrix, equality_value: ``A (p, n)`` and ``b (p,)``. Equalities are affine only.
        inequality: c, ``(x (d_x,) or None, z (n,)) -> (q,)``, convex and twice differentiable in z.
        num_inequalities: q.
        reference: ``(scenarios (M, d_y), weights (M,)) -> (problem, z, constraints)``, the same
            program in cvxpy, for ``solver="cvxpy"``; see :meth:`Program.cvxpy_problem`.

    ``limit``, ``lower``, ``upper`` and ``equality_value`` may be functions ``x (d_x,) -> value`` of
    an instance's context.

    Any tensor or module that the parts hold may require a gradient: a decision layer passes it on, by
    the same adjoint, as it does to a context that requires one. Closed forms of hinges follow tensors
    that are changed in place.

    Raises:
        TypeError, ValueError: parts that do not fit each other; functions that cannot be used;
            ``integer``, ``boolean`` or ``binary``: decisions are continuous.

    Example:
        >>> program = TorchProgram(                       # power scheduling, as in section 6.2
        ...     num_decisions=24,
        ...     num_outcomes=24,
        ...     smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum(),
        ...     hinges=[Hinge(50.0, lambda y, z: y - z), Hinge(0.5, lambda y, z: z - y)],
        ... )
        >>> solve(program, torch.rand(8, 50, 24, dtype=torch.float64)).decision
    """

    #: Attributes that follow from the others and may change with use.
    _CACHES: ClassVar[tuple[str, ...]] = (
        "_forms",
        "_num_arguments",
        "_alike",
        "_quadratic",
        "_tried",
        "_joints",
    )

    @continuous
    def __init__(
        self,
        num_decisions: int,
        num_outcomes: int,
        smooth: Callable[..., Tensor] | None = None,
        hinges: Hinge | Sequence[Hinge] = (),
        matrix: Numbers | None = None,
        limit: Limit | None = None,
        lower: Limit | None = None,
        upper: Limit | None = None,
        equality_matrix: Numbers | None = None,
        equality_value: Limit | None = None,
        inequality: Callable[[Tensor | None, Tensor], Tensor] | None = None,
        num_inequalities: int = 0,
        reference: Callable[[Any, Any], tuple[Any, Any, list[Any]]] | None = None,
    ) -> None:
        num_decisions = as_size("num_decisions", num_decisions)
        num_outcomes = as_size("num_outcomes", num_outcomes)
        hinges = as_hinges("hinges", hinges)
        if smooth is None and not hinges:
            raise ValueError("a program needs a cost: pass smooth, hinges or both")
        if smooth is not None and not callable(smooth):
            raise TypeError(f"smooth={smooth!r} is no function of (y, z)")
        self.num_decisions = num_decisions
        self.num_outcomes = num_outcomes
        self.smooth = smooth
        self.terms = hinges
        self.kinked = any(term.power == 1 for term in self.terms)
        self.reference = reference
        self.feasible_set = FeasibleSet(
            num_decisions,
            matrix,
            limit,
            lower,
            upper,
            equality_matrix,
            equality_value,
            inequality,
            num_inequalities,
        )
        functions = [term.argument for term in self.terms]
        functions += [] if smooth is None else [smooth]
        self.cost_context = any(takes_context(function) for function in functions)
        self.contextual = self.feasible_set.contextual or self.cost_context
        self._forms = ClosedForms(self.terms, num_outcomes, num_decisions)
        # Where the smooth part was tried, and whether it takes batches of both arguments only.
        self._met: set[torch.device] = set()
        self._alike = False
        self._quadratic = True
        self._tried = False
        self._joints: dict[int, TorchProgram] = {}

    def cost(self, outcome: Tensor, decision: Tensor, context: Tensor | None = None) -> Tensor:
        """f(y, z), exact: ``(..., d_y), (..., n) -> (...)``; of a context ``(..., d_x)`` if it takes one.

        Raises:
            TypeError, ValueError: arguments that do not fit, by name.
        """
        if self.cost_context:
            return self._cost_in_context(outcome, decision, context)
        y, z, lead = self._rows(outcome, decision)
        self._closed_forms(z)
        every = tuple((term, slice(0)) for term in self.terms)
        return ScenarioCost(self.smooth, every, alike=self._alike).exact(y, z).reshape(lead)

    def _rows(self, outcome: Tensor, decision: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """``(N, d_y)`` and ``(N, n)`` of a cost's arguments, and the shape of its values."""
        (outcome, decision), lead = vectors(
            outcome=(outcome, self.num_outcomes), decision=(decision, self.num_decisions)
        )
        y = outcome.expand(*lead, -1).reshape(-1, self.num_outcomes)
        return y, decision.expand(*lead, -1).reshape(-1, self.num_decisions), lead

    def _cost_in_context(self, outcome: Tensor, decision: Tensor, context: Tensor | None) -> Tensor:
        (outcome, decision, context), _ = vectors(
            outcome=(outcome, self.num_outcomes),
            decision=(decision, self.num_decisions),
            context=(self._needed(context), None),
        )
        lead = torch.broadcast_shapes(outcome.shape[:-1], context.shape[:-1])
        both = [part.expand(*lead, -1) for part in (outcome, context.to(outcome.dtype))]
        return self._joint(context.shape[-1]).cost(torch.cat(both, dim=-1), decision)

    def cost_given(self, outcome: Tensor, decision: Tensor, context: Tensor | None) -> Tensor:
        """:meth:`cost`, the context passed on if it takes one."""
        return self.cost(outcome, decision, context)

    def with_context(self, instances: Instances) -> tuple[Program, Instances]:
        """The program of ``(y, x)`` with its scenarios, where the cost depends on the context."""
        if not self.cost_context:
            return self, instances
        context = self._needed(instances.context)
        super().validate(instances)
        y, width = instances.scenarios, instances.bandwidth
        every = context.to(y).unsqueeze(1).expand(-1, y.shape[1], -1)
        none = width.new_zeros(context.shape)
        y, width = torch.cat([y, every], dim=2), torch.cat([width, none], dim=1)
        return self._joint(context.shape[1]), replace(instances, scenarios=y, bandwidth=width)

    def with_kernels(self, instances: Instances) -> Instances:
        """The instances without the bandwidths of outcomes that no hinge depends on."""
        instances = super().with_kernels(instances)
        forms = self._closed_forms(instances.scenarios)
        known = [form.outcome_slopes for form in forms if form is not None]
        if not known or len(known) < len(forms):
            return instances
        return replace(instances, bandwidth=instances.bandwidth * (torch.cat(known) != 0).any(0))

    def _needed(self, context: Tensor | None) -> Tensor:
        if context is None:
            raise ValueError(
                f"{self._context_taker()} takes the context, and so the cost depends on it; pass "
                "context=(B, d_x)"
            )
        return context

    def _context_taker(self) -> str:
        """The first function of the cost that takes the context, for messages."""
        named = [] if self.smooth is None else [("smooth", self.smooth)]
        named += [(f"hinges[{index}]", term.argument) for index, term in enumerate(self.terms)]
        takers = (name for name, function in named if takes_context(function))
        return f"{next(takers, 'a function')}(y, z, x)"

    def _joint(self, width: int) -> "TorchProgram":
        """The program whose outcomes are ``(y, x)``, with x of a width d_x."""
        if width not in self._joints:
            size = self.num_outcomes

            def joined(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
                wants = takes_context(function)

                def of_both(both: Tensor, z: Tensor) -> Tensor:
                    y, x = both[:size], both[size:]
                    return function(y, z, x) if wants else function(y, z)

                of_both.__name__ = getattr(function, "__name__", repr(function))
                return of_both

            made = TorchProgram(
                self.num_decisions,
                size + width,
                smooth=None if self.smooth is None else joined(self.smooth),
                hinges=[replace(term, argument=joined(term.argument)) for term in self.terms],
            )
            made.feasible_set = self.feasible_set
            made.contextual = self.feasible_set.contextual
            self._joints[width] = made
        return self._joints[width]

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """``sum_m omega_m f_s(y_m, z)``: ``(B,)``."""
        fit_batch(self, instances, z)
        instances = self._smoothed(instances)
        return _sum(part.objective(instances, z) for part in self._parts(instances))

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient in z of each scenario's cost, kinks of width 0 at half slope: ``(B, M, n)``."""
        instances = self._smoothed(instances)
        return _sum(part.gradients(instances, z) for part in self._parts(instances))

    def gradient(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient of :meth:`objective` in z: ``(B, n)``."""
        instances = self._smoothed(instances)
        return _sum(part.gradient(instances, z) for part in self._parts(instances))

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """Hessian of :meth:`objective` in z, kinks of width 0 left out: ``(B, n, n)``."""
        instances = self._smoothed(instances)
        return _sum(part.hessian(instances, z) for part in self._parts(instances))

    def quadratic(self, instances: Instances) -> QuadraticCost | None:
        """The cost of a batch as a quadratic form and closed hinges; None where it is of another kind."""
        y = instances.scenarios
        forms = self._closed_forms(y)
        closed = tuple(form for form in forms if form is not None)
        if not self._quadratic or len(closed) < len(forms):
            return None
        size = y.abs().amax((1, 2)).clamp_min(1e-3).unsqueeze(1)
        trial = size * generic(y, self.num_decisions)
        smooth = None if self.smooth is None else ScenarioCost(self.smooth, alike=self._alike)
        found = QuadraticCost.of(smooth, closed, instances, trial)
        self._quadratic = found is not None
        return found

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """``f_zy(y_m, z)' u``, as the gradient in y of ``u' grad_z f``: ``(B, M, d_y)``.

        ``shares (B, M, K)`` are the slopes of the kinks of width 0, in the order of :meth:`hinges`.
        """
        instances = self._smoothed(instances)
        return _sum(
            part.cross_product(instances, z, adjoint, shares) for part in self._parts(instances)
        )

    def bandwidth_product(self, instances: Instances, z: Tensor, adjoint: Tensor) -> Tensor:
        """``(d/ds gradient)' u``: ``(B, d_y)``; 0 for a smooth program and where s = 0."""
        if not self.kinked:
            return torch.zeros_like(instances.bandwidth)
        return _sum(
            part.bandwidth_product(instances, z, adjoint) for part in self._parts(instances)
        )

    def hinges(self, instances: Instances) -> Hinges | None:
        """The arguments of power 1 in the order of their declaration; None if there are none.

        A hinge is left exact where the width of its argument is 0 at a decision drawn at random:
        everywhere, but for coincidence.
        """
        if not self.kinked:
            return None
        y = instances.scenarios
        z = generic(y, self.num_decisions).expand(len(y), -1)
        found = [kink.kinks(instances, z) for kink in self._forms.kinks(y)]
        if len(found) == 1:
            return found[0]
        jacobians = [kink.jacobian for kink in found]
        if any(jacobian.shape[:2] != (1, 1) for jacobian in jacobians):
            jacobians = [part.expand(*y.shape[:2], -1, -1) for part in jacobians]
        return Hinges(
            torch.cat([kink.coefficient for kink in found], dim=2),
            torch.cat([kink.offset for kink in found], dim=2),
            torch.cat(jacobians, dim=2),
            all(kink.as_written for kink in found),
        )

    def hinge_product(self, instances: Instances, z: Tensor, multipliers: Tensor) -> Tensor:
        """``sum_k multiplier_mk grad_y a_k(y_m, z)``: ``(B, M, K) -> (B, M, d_y)``."""
        kinks = self._forms.kinks(z)
        counts = zip(self._forms.counts, self.terms, strict=True)
        sizes = [count for count, term in counts if term.power == 1]
        parts = zip(kinks, multipliers.split(sizes, dim=2), strict=True)
        return _sum(kink.hinge_product(instances, z, part) for kink, part in parts)

    def learned(self, instances: Instances, optimum: Optimum) -> KKTValues | None:
        """Optimality conditions that hold a graph to tensors and modules of the user's functions."""
        z = optimum.z
        if not self.learns(z, instances.context):
            return None
        constraints = self.constraints(z, instances.context)
        values = constraints.inequality_values(z)
        equalities = constraints.equality_residual(z)
        instances = self._smoothed(instances)
        convolved = bool((instances.bandwidth > 0).any())
        cost = ScenarioCost(self.smooth, tuple(self._forms.columns), convolved, self._alike)
        stationarity = cost.gradient(instances, z, optimum.shares)
        stationarity = stationarity + constraints.inequality_force(z, optimum.duals)
        stationarity = stationarity + transpose_apply(
            constraints.equality_matrix, optimum.equality_duals
        )
        kinks = [term for term in self.terms if term.power == 1]
        y = instances.scenarios
        arguments = [over_batch(vmap(term.values, in_dims=(0, None)), y, z) for term in kinks]
        none = z.new_zeros(*y.shape[:2], 0)
        return KKTValues(stationarity, values, equalities, torch.cat([none, *arguments], dim=2))

    def learns(self, like: Tensor, context: Tensor | None = None) -> bool:
        """Whether any tensor that the program's parts hold, or the context, requires a gradient."""
        if self.cost_context and context is not None:
            return self._joint(context.shape[1]).learns(like, context)
        z = like.new_ones(1 if context is None else len(context), self.num_decisions)
        constraints = self.constraints(z, context)
        for value in (constraints.inequality_values(z), constraints.equality_residual(z)):
            if is_differentiated(value):
                return True
        y, z = like.new_ones(self.num_outcomes), z[0]
        if self.smooth is not None and is_differentiated(self.smooth(y, z)):
            return True
        return any(
            is_differentiated(term.values(y, z)) or is_differentiated(term.coefficients(z))
            for term in self.terms
        )

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        """The feasible set, limits evaluated at the contexts ``(B, d_x)``."""
        return self.feasible_set.constraints(like, context)

    def cvxpy_problem(self, scenarios: Any, weights: Any) -> tuple[Any, Any, list[Any]]:
        """What ``reference`` states.

        Raises:
            TypeError: no ``reference`` was given.
            ValueError: it has integer variables.
        """
        if self.reference is None:
            raise TypeError(
                "a torch function has no cvxpy statement; pass reference=(scenarios, weights) -> "
                "(problem, z, constraints) to TorchProgram, or use solver='auto'"
            )
        stated = self.reference(scenarios, weights)
        refuse_integers(stated[0])
        return stated

    def validate(self, instances: Instances) -> None:
        """Raise ``ValueError`` or ``TypeError`` if scenarios, context or functions do not fit."""
        super().validate(instances)
        if self.cost_context:
            program, both = self.with_context(instances)
            program.validate(both)
            return
        y, context = instances.scenarios, instances.context
        self.constraints(y, context)
        if not self._tried and len(y):
            self._closed_forms(y)
            bounds = self.feasible_set.bounds(y, context)
            points = TrialPoints.of(y, self.num_outcomes, self.num_decisions, *bounds)
            self.feasible_set.try_inequality(points, context, bounds)
            outcomes = y.detach()[0, :2].nan_to_num(0.0, 0.0, 0.0)
            if self.smooth is not None:
                segments = Segments.of(outcomes, self.num_decisions, *bounds)
                try_kinks("smooth(y, z)", self.smooth, segments, "declare it in hinges=")
            self._tried = True
        self._closed_forms(y)
        self._forms.verify(y)

    def _smoothed(self, instances: Instances) -> Instances:
        return instances if self.kinked else instances.exact()

    def _parts(self, instances: Instances) -> list[AffineHinge | ScenarioCost]:
        """The summands of f: hinges with a closed form, and the rest."""
        forms = self._closed_forms(instances.scenarios)
        of_columns = zip(self._forms.columns, forms, strict=True)
        rest = [hinge for hinge, form in of_columns if form is None]
        parts: list[AffineHinge | ScenarioCost] = [form for form in forms if form is not None]
        if self.smooth is not None or rest:
            convolved = bool(rest) and bool((instances.bandwidth > 0).any())
            parts.append(ScenarioCost(self.smooth, tuple(rest), convolved, self._alike))
        return parts

    def _closed_forms(self, like: Tensor) -> list[AffineHinge | None]:
        """The closed form of every hinge that has one, after all functions were tried."""
        if self.smooth is not None and like.device not in self._met:
            self._try_smooth(self.smooth, like)
            self._met.add(like.device)
        return self._forms.of(like)

    @without_saved_tensor_hooks()
    def _try_smooth(self, smooth: Callable[..., Tensor], like: Tensor) -> None:
        bounds = self.feasible_set.bounds(like, None)
        points = TrialPoints.of(like, self.num_outcomes, self.num_decisions, *bounds)
        try_function("smooth(y, z)", smooth, points, scalar=True)
        self._alike = must_be_batched_alike(smooth, points)


def takes_context(function: Callable[..., Tensor], arguments: int = 3) -> bool:
    """Whether a function of the cost wants that many ``arguments``, the last of them the context.

    One with a default is the context where it is called so, ``x=None``; ``price=price`` is a constant.
    """
    if isinstance(function, torch.nn.Module):
        function = function.forward
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    places = [p for p in parameters if p.kind in positional]
    wanted = [p for p in places if p.default is Parameter.empty]
    optional = [
        p for p in places[len(wanted) :] if p.name in ("x", "context") and p.default is None
    ]
    return len(wanted) == arguments or (
        len(wanted) == arguments - 1 and optional == places[len(wanted) : arguments] != []
    )


def _sum(parts: Any) -> Tensor:
    first, *others = parts
    for part in others:
        first = first + part
    return first
