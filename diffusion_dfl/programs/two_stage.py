"""Decisions taken after the outcome is seen: two-stage stochastic programs with recourse.

    min_z  sum_m omega_m [ f(y_m, z) + Q(y_m, z) ]   s.t.  z in Z(x)
    Q(y, z) = min_u  q(y, z, u)   s.t.  lower <= u <= upper,  g(y, z, u) <= 0,  e(y, z, u) = 0

(Birge and Louveaux, Introduction to Stochastic Programming, 2011, chapter 3). All of q and g are convex
in (z, u) together and e is affine, so that Q is convex. Hinges of f are recourse too: (a)_+ is the
smallest v with v >= 0 and v >= a.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from diffusion_dfl.programs.arguments import fit_batch
from diffusion_dfl.programs.batching import is_differentiated, over_batch
from diffusion_dfl.programs.general.feasible_set import Limit
from diffusion_dfl.programs.general.hinge_terms import Hinge
from diffusion_dfl.programs.general.program import TorchProgram, takes_context
from diffusion_dfl.programs.general.trial import (
    Segments,
    TrialPoints,
    try_affine_in_decision,
    try_convex,
    try_function,
    try_kinks,
)
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.integers import continuous
from diffusion_dfl.programs.numbers import Numbers
from diffusion_dfl.programs.once import OnceDifferentiable
from diffusion_dfl.programs.program import Program
from diffusion_dfl.programs.recourse import Conditions, Recourse, ScenarioFunction, ScenarioProblem
from diffusion_dfl.programs.regularised import Regulariser


class TwoStageProgram(TorchProgram):
    """A stochastic convex program with recourse, stated by torch functions. Immutable.

    Solved by an interior point whose step eliminates the scenarios' decisions block by block: its time
    is linear in M. It is never convolved (``kinked`` is False): its decisions are those of the sample
    program, whose gradient is exact; a linear program needs ``regularise=`` for one.

    Args:
        num_decisions, num_outcomes: n and d_y.
        recourse: what is decided in every scenario.
        smooth, hinges: of the first stage, as in :class:`~diffusion_dfl.programs.TorchProgram`; these and
            all others may be left out.
        matrix, limit, lower, upper, equality_matrix, equality_value: likewise.
        inequality, num_inequalities, reference: likewise.

    ``Solution.recourse`` holds the second stage. :meth:`cost` decides it anew: ``inf`` where nothing is
    feasible, ``-inf`` where it has no end, NaN where it was not solved.

    Raises:
        TypeError, ValueError: parts that do not fit each other; functions that cannot be used.

    Example:
        >>> program = TwoStageProgram(            # make today, buy tomorrow what is missing
        ...     num_decisions=2,
        ...     num_outcomes=2,
        ...     smooth=lambda y, z: z.sum() + 0.1 * (z**2).sum(),
        ...     lower=0.0,
        ...     recourse=Recourse(
        ...         num_decisions=2,
        ...         smooth=lambda y, z, u: 3.0 * u.sum(),
        ...         inequality=lambda y, z, u: y - z - u,
        ...         lower=0.0,
        ...     ),
        ... )
        >>> solve(program, torch.rand(8, 50, 2, dtype=torch.float64)).decision
    """

    _CACHES = (*TorchProgram._CACHES, "_known")

    @continuous
    def __init__(
        self,
        num_decisions: int,
        num_outcomes: int,
        recourse: Recourse,
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
        if not isinstance(recourse, Recourse):
            raise TypeError(f"recourse={recourse!r} is no Recourse; make it Recourse(...)")
        super().__init__(
            num_decisions,
            num_outcomes,
            _nothing if smooth is None else smooth,
            hinges,
            matrix,
            limit,
            lower,
            upper,
            equality_matrix,
            equality_value,
            inequality,
            num_inequalities,
            reference,
        )
        self.recourse = recourse
        self.kinked = False
        functions = (recourse.smooth, recourse.inequality, recourse.equality)
        if any(function is not None and takes_context(function, 4) for function in functions):
            self.cost_context = self.contextual = True
        self._regulariser: Regulariser | None = None
        self._known: set[torch.device] = set()

    def regularised(self, regulariser: Regulariser) -> "TwoStageProgram":
        """The program with a regulariser of z in what is minimised; its :meth:`cost` goes without."""
        made = TwoStageProgram.__new__(TwoStageProgram)
        made.__dict__.update(self.__dict__)
        made._regulariser, made._joints = regulariser, {}
        return made

    def problem(self, like: Tensor) -> ScenarioProblem:
        """The problem of one scenario; functions are tried once a device, at outcomes ``like (..., d_y)``.

        Raises:
            TypeError, ValueError: functions that cannot be used, by name.
        """
        if like.device not in self._known:
            self._closed_forms(like)
            outcomes = like.detach().reshape(-1, self.num_outcomes)
            outcomes = outcomes[outcomes.isfinite().all(1)]
            self._try_recourse(outcomes)
            if len(outcomes):
                self._known.add(like.device)
        return self._made(like, self._regulariser)

    def cost(self, outcome: Tensor, decision: Tensor, context: Tensor | None = None) -> Tensor:
        """``f(y, z) + Q(y, z)``, exact: ``(..., d_y), (..., n) -> (...)``.

        Differentiable once in outcomes, decisions and learned parts, by the multipliers of the second
        stage (envelope theorem).

        Raises:
            TypeError, ValueError: arguments that do not fit, by name.
        """
        if self.cost_context:
            return super().cost(outcome, decision, context)
        # A solver is needed to know a cost, and solvers know programs.
        from diffusion_dfl.solvers.transforms import is_transformed
        from diffusion_dfl.solvers.two_stage import solve_second_stage

        if is_transformed():
            raise TypeError(
                "TwoStageProgram.cost decides a second stage, which torch.func does not follow; pass all "
                "outcomes and decisions at once, and differentiate by backward()"
            )
        y, z, lead = self._rows(outcome, decision)
        both = OnceDifferentiable.apply(torch.cat([y, z], dim=1))
        self.problem(y)
        given = self._made(z, None).given(self.num_outcomes)
        found = solve_second_stage(given, both.detach())
        value = over_batch(
            given.lagrangian, both, found.w, found.duals, found.equality_duals, chunk=2**16
        )
        return torch.where(found.known, value, found.value).reshape(lead)

    def _context_taker(self) -> str:
        for name in ("smooth", "inequality", "equality"):
            function = getattr(self.recourse, name)
            if function is not None and takes_context(function, 4):
                return f"recourse: {name}(y, z, u, x)"
        return super()._context_taker()

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient in z of each scenario's cost, recourse included: ``(B, M, n)``."""
        fit_batch(self, instances, z)
        with torch.enable_grad():
            y = instances.scenarios.detach()
            every = z.detach().unsqueeze(1).expand(-1, y.shape[1], -1).contiguous().requires_grad_()
            cost = self.cost(y, every)
            if self._regulariser is not None:
                cost = cost + self._regulariser.value(every)
            return torch.autograd.grad(cost.sum(), every)[0]

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """``sum_m omega_m (f + Q)(y_m, z)``: ``(B,)``."""
        fit_batch(self, instances, z)
        value = (instances.weights * self.cost(instances.scenarios, z.unsqueeze(1))).sum(1)
        return value if self._regulariser is None else value + self._regulariser.value(z)

    def gradient(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient of :meth:`objective` in z: ``(B, n)``."""
        return Program.gradient(self, instances, z)

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        raise _no_such("hessian")

    def cross_product(self, *args: Any, **kwargs: Any) -> Tensor:
        raise _no_such("cross_product")

    def quadratic(self, instances: Instances) -> None:
        """None: what is decided in the scenarios makes the cost of no closed form."""

    def conditions(
        self, instances: Instances, z: Tensor, w: Tensor, duals: Tensor, equality_duals: Tensor
    ) -> Conditions:
        """The scenarios' part of the optimality conditions, with a graph to what they depend on.

        Args:
            z, w: ``(B, n)`` and ``(B, M, r)``.
            duals, equality_duals: ``(B, M, k)`` and ``(B, M, p)``.
        """
        y, problem = instances.scenarios, self.problem(instances.scenarios)
        v = torch.cat([z.unsqueeze(1).expand(-1, y.shape[1], -1), w], dim=2)
        gradient = vmap(grad(problem.lagrangian, argnums=1))
        in_v = over_batch(gradient, y, v, duals, equality_duals)
        size = self.num_decisions
        return Conditions(
            torch.einsum("bm,bmn->bn", instances.weights, in_v[..., :size]),
            in_v[..., size:],
            over_batch(vmap(problem.inequality_values), y, v),
            over_batch(vmap(problem.equality_values), y, v),
        )

    def learns(self, like: Tensor, context: Tensor | None = None) -> bool:
        """Whether any tensor that the program's parts hold, or the context, requires a gradient."""
        if super().learns(like, context):
            return True
        if self.cost_context and context is not None:
            return False
        problem = self._made(like, None)
        y, v = like.new_ones(self.num_outcomes), like.new_ones(problem.size + len(problem.lower))
        parts = (problem.cost, problem.inequality_values, problem.equality_values)
        return any(is_differentiated(part(y, v)) for part in parts)

    def validate(self, instances: Instances) -> None:
        """Raise ``ValueError`` or ``TypeError`` if scenarios, context or functions do not fit."""
        super().validate(instances)
        if self._regulariser is not None:
            given = self.constraints(instances.scenarios, instances.context)
            self._regulariser.require(given.lower)
        if not self.cost_context:
            self.problem(instances.scenarios)

    def _joint(self, width: int) -> "TwoStageProgram":
        if width not in self._joints:
            first, size = super()._joint(width), self.num_outcomes

            def joined(function: ScenarioFunction | None) -> ScenarioFunction | None:
                if function is None:
                    return None
                wants = takes_context(function, 4)

                def of_both(both: Tensor, z: Tensor, u: Tensor) -> Tensor:
                    y, x = both[:size], both[size:]
                    return function(y, z, u, x) if wants else function(y, z, u)

                of_both.__name__ = getattr(function, "__name__", repr(function))
                return of_both

            given = self.recourse
            recourse = replace(
                given,
                smooth=joined(given.smooth),
                inequality=joined(given.inequality),
                equality=joined(given.equality),
            )
            made = TwoStageProgram(
                self.num_decisions,
                size + width,
                recourse,
                first.smooth,
                first.terms,
            )
            made.feasible_set = self.feasible_set
            made.contextual = self.feasible_set.contextual
            made._regulariser = self._regulariser
            self._joints[width] = made
        found = self._joints[width]
        assert isinstance(found, TwoStageProgram)
        return found

    def _made(self, like: Tensor, regulariser: Regulariser | None) -> ScenarioProblem:
        """Recourse and hinges as one problem in (z, w), w being u and the hinges' values."""
        n, r, recourse, terms = (
            self.num_decisions,
            self.recourse.num_decisions,
            self.recourse,
            self.terms,
        )
        counts, smooth = self._forms.counts, self.smooth
        assert smooth is not None

        def parted(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return v[:n], v[n : n + r], v[n + r :]

        def cost(y: Tensor, v: Tensor) -> Tensor:
            z, u, hinged = parted(v)
            total = smooth(y, z)
            if recourse.smooth is not None:
                total = total + recourse.smooth(y, z, u)
            for term, values in zip(terms, hinged.split(counts) if counts else (), strict=True):
                total = total + (term.coefficients(v) * values**term.power).sum()
            return total if regulariser is None else total + regulariser.value(z)

        def rows(y: Tensor, v: Tensor) -> Tensor:
            z, u, hinged = parted(v)
            parts = []
            if recourse.inequality is not None:
                parts.append(torch.atleast_1d(recourse.inequality(y, z, u)))
            if terms:
                parts.append(torch.cat([term.values(y, z) for term in terms]) - hinged)
            return torch.cat(parts)

        def equalities(y: Tensor, v: Tensor) -> Tensor:
            z, u, _ = parted(v)
            assert recourse.equality is not None
            return torch.atleast_1d(recourse.equality(y, z, u))

        low, high = recourse.bounds(like)
        none = low.new_zeros(sum(counts))
        return ScenarioProblem(
            n,
            cost,
            rows if terms or recourse.inequality is not None else None,
            None if recourse.equality is None else equalities,
            torch.cat([low, none]),
            torch.cat([high, none + torch.inf]),
        )

    @without_saved_tensor_hooks()
    def _try_recourse(self, outcomes: Tensor) -> None:
        """Raise ``TypeError`` or ``ValueError`` for functions of no use at outcomes ``(R, d_y)``.

        A cost may be convex at the outcomes that there are and at no others, as a price times a square.
        """
        n, r, recourse = self.num_decisions, self.recourse.num_decisions, self.recourse
        low, high = (
            torch.cat([torch.full_like(of_u[:1], none).expand(n) if of_z is None else of_z, of_u])
            for none, of_z, of_u in zip(
                (-torch.inf, torch.inf),
                self.feasible_set.bounds(outcomes, None),
                recourse.bounds(outcomes),
                strict=True,
            )
        )
        points = TrialPoints.of(outcomes, self.num_outcomes, n + r, low, high)
        known = points.at(outcomes) if len(outcomes) else points
        segments = Segments.of(known.outcome[:2], n + r, low, high)

        def joined(function: ScenarioFunction) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda y, v: function(y, v[:n], v[n:])

        for name, function, scalar in (
            ("smooth", recourse.smooth, True),
            ("inequality", recourse.inequality, False),
            ("equality", recourse.equality, False),
        ):
            if function is None:
                continue
            label, of_both = f"recourse: {name}(y, z, u)", joined(function)
            try_function(label, of_both, points, scalar=scalar)
            if name == "equality":
                mend = "(z, u): only affine equalities leave a convex problem"

                def values(y: Tensor, v: Tensor, of: Any = of_both) -> Tensor:
                    return torch.atleast_1d(of(y, v))

                try_affine_in_decision(label, values, points, mend)
                continue
            if len(outcomes):
                _try_convex_recourse(label, of_both, known, n, scalar)
            mend = "give it a decision of its own and an inequality for each piece"
            try_kinks(label, of_both, segments, mend)


def _try_convex_recourse(
    label: str,
    function: Callable[[Tensor, Tensor], Tensor],
    points: TrialPoints,
    num_decisions: int,
    is_cost: bool,
) -> None:
    """Raise ``ValueError`` for a cost or inequality that is not convex in u, or not in (z, u)."""
    if is_cost:
        alone = (
            "u: the recourse's cost must be convex in the recourse variables, or its least value is "
            "not found. State a convex cost that bounds it"
        )
        together = (
            "(z, u) together, though it is in u: the recourse's cost must be, or its expectation may not "
            "be convex in z. Move terms of z alone to the program's smooth=; a product of z and u is not "
            "convex"
        )
    else:
        alone = f"u, so that {label} <= 0 may not be a convex set; state it by convex functions"
        together = alone.replace("u,", "(z, u) together,", 1)
    try_convex(label, function, points, alone, fixed=num_decisions)
    try_convex(label, function, points, together)


def _nothing(y: Tensor, z: Tensor) -> Tensor:
    return 0.0 * z.sum()


def _no_such(name: str) -> TypeError:
    return TypeError(
        f"TwoStageProgram has no {name}() at a decision alone; solve() and DecisionLayer find its "
        "derivatives with the second stage"
    )
