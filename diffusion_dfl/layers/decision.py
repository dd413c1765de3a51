"""The decision layer as a module: scenarios in, decisions out, gradients by the adjoint."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from diffusion_dfl.errors import RunFailed
from diffusion_dfl.layers.adjoint import Degeneracy
from diffusion_dfl.layers.differentiate import Curvature
from diffusion_dfl.layers.failures import ON_FAILURE, OnFailure
from diffusion_dfl.layers.implicit import ImplicitDecision, SolveOptions, SolveRecord
from diffusion_dfl.programs import (
    Instances,
    Program,
    Regularised,
    Regulariser,
    TwoStageProgram,
)
from diffusion_dfl.programs.instances import checked_scenarios, fitting
from diffusion_dfl.programs.numbers import Numbers, as_tensor
from diffusion_dfl.programs.smoothing import bandwidth as bandwidth_rule
from diffusion_dfl.sizes import check_sizes
from diffusion_dfl.solvers import SOLVERS, Solution, SolverName, Status, report, solve
from diffusion_dfl.solvers.dispatch import refuse_context

LayerSolver = SolverName | Literal["cvxpylayers"]
LAYER_SOLVERS: tuple[LayerSolver, ...] = (*SOLVERS, "cvxpylayers")
# Decisions in a row without a gradient before a layer says so.
_MANY = 128

logger = logging.getLogger(__name__)

CURVATURES: tuple[Curvature, ...] = get_args(Curvature)


class SolverFailure(RunFailed):
    """Instances that were not solved, more than the layer tolerates; the message names them.

    Attributes:
        invalid: whether any of them was no valid input, as a scenario that is NaN.
    """

    invalid = False


@dataclass
class LayerStatistics:
    """Totals since the layer was made.

    Attributes:
        instances: instances seen.
        failures: instances left out, after what ``on_failure`` tried.
        retried, by_retry, by_reference: instances tried again, and solved by which attempt.
        vertices, rank_deficient, weak: differentiated instances that were degenerate
            (:class:`~diffusion_dfl.layers.adjoint.Degeneracy`).
        seconds: spent in solves.
    """

    instances: int = 0
    failures: int = 0
    retried: int = 0
    by_retry: int = 0
    by_reference: int = 0
    vertices: int = 0
    rank_deficient: int = 0
    weak: int = 0
    seconds: float = 0.0

    def counts(self) -> dict[str, int]:
        """All totals but the seconds, by name."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}


def check_knobs(
    bandwidth_scale: float,
    curvature: str,
    solver: str,
    on_failure: str,
    max_failure_share: float,
) -> None:
    """Raise ValueError for a knob of :class:`DecisionLayer` that suits no program."""
    for name, value, known in (
        ("on_failure", on_failure, ON_FAILURE),
        ("curvature", curvature, CURVATURES),
        ("solver", solver, LAYER_SOLVERS),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}")
    if not 0 <= bandwidth_scale < math.inf:
        raise ValueError(f"bandwidth_scale={bandwidth_scale} must be a finite number >= 0")
    if not 0 <= max_failure_share <= 1:
        raise ValueError(f"max_failure_share={max_failure_share} must be in [0, 1]")
    if solver == "cvxpylayers" and curvature == "paper":
        raise ValueError("curvature='paper' is a formula of ours; use solver='auto' with it")


class DecisionLayer(nn.Module):
    """Solve the stochastic program on scenarios; differentiable in scenarios and weights.

    With ``curvature="convolved"`` a kinked program is solved in its Gaussian-convolved form with
    bandwidth ``s_j = bandwidth_scale * std_m(y_mj) * M^(-1/5)``; gradients include the bandwidth's
    own dependence on the scenarios and their weights, unless ``bandwidth`` is passed.

    Args:
        program: the decision problem.
        bandwidth_scale: c; 0 solves the exact program.
        sample_size: the M of the bandwidth rule; the number of scenarios of the call if None.
        curvature: ``convolved``, ``saa`` (the exact sample program; its score weights in the
            kinked hours are 0, so a kinked program cannot be trained by its score), or ``paper``
            (the printed formula, which differentiates no map; for comparison). Smooth programs
            are the same in all three.
        solver: ``auto``, ``structured``, ``interior_point``, ``cvxpy`` as in
            :func:`diffusion_dfl.solvers.solve`, or ``cvxpylayers``: solved and differentiated by
            cvxpylayers with Clarabel, for exact programs with uniform weights.
        on_failure: ``retry``, ``reference``, ``drop`` or ``raise``
            (:mod:`diffusion_dfl.layers.failures`).
        max_failure_share: share of unsolved instances of one call that is too many; with
            ``raise`` it is 0.
        regularise: curvature added to what is minimised, for programs that have none of their own;
            the exact rule of :meth:`solve` goes without.

    A layer whose decisions all stand at vertices, where their derivative is 0, logs one warning that
    says so and names the remedy.

    Example:
        >>> layer = DecisionLayer(PowerProgram(), bandwidth_scale=1.5)
        >>> scenarios = torch.rand(8, 50, 24, requires_grad=True)
        >>> decision = layer(scenarios)                                # (8, 24) float64
        >>> PowerProgram().cost(torch.rand(8, 24), decision).mean().backward()
    """

    def __init__(
        self,
        program: Program,
        bandwidth_scale: float = 1.06,
        sample_size: int | None = None,
        curvature: Curvature = "convolved",
        solver: LayerSolver = "auto",
        on_failure: OnFailure = "drop",
        max_failure_share: float = 0.05,
        regularise: Regulariser | None = None,
    ) -> None:
        super().__init__()
        check_knobs(bandwidth_scale, curvature, solver, on_failure, max_failure_share)
        if not isinstance(program, Program):
            shown = program.__name__ if isinstance(program, type) else type(program).__name__
            raise TypeError(
                f"program is {shown}; pass a program that was made, e.g. PowerProgram() or TorchProgram(...)"
            )
        if sample_size is not None:
            check_sizes(sample_size=sample_size)
        if regularise is not None and not isinstance(regularise, Regulariser):
            raise TypeError(
                f"regularise={regularise!r}; pass Regulariser(weight, 'quadratic' or 'entropic'), or None"
            )
        self.program = program
        self.regularise = regularise
        self._decided = _regularised(program, regularise)
        self.bandwidth_scale = bandwidth_scale if curvature == "convolved" else 0.0
        self.sample_size = sample_size
        self.curvature: Curvature = curvature
        self.solver = solver
        self.on_failure: OnFailure = on_failure
        self.max_failure_share = max_failure_share
        self.statistics = LayerStatistics()
        self.last_solution: Solution | None = None
        self._warned, self._at_vertices = False, 0
        if self.smooths and solver in ("cvxpy", "cvxpylayers"):
            raise ValueError(
                f"solver={solver!r} cannot solve the convolved cost of {type(program).__name__}, "
                "which has no conic form; use curvature='saa' or another solver"
            )
        if self.smooths and on_failure == "reference":
            raise ValueError(
                "on_failure='reference' needs an exact program: the convolved cost of "
                f"{type(program).__name__} has no conic form; use on_failure='retry' or "
                "curvature='saa'"
            )

    @property
    def smooths(self) -> bool:
        """Whether the layer replaces the program by its convolved form."""
        return self.program.kinked and self.bandwidth_scale > 0

    def forward(
        self,
        scenarios: Numbers,
        weights: Numbers | None = None,
        bandwidth: Numbers | None = None,
        context: Numbers | None = None,
        start: Numbers | None = None,
    ) -> Tensor:
        """Decisions ``(B, n)`` in float64, on the scenarios' device.

        This is the one place where networks' float32 meets the solver's float64; the cast is
        part of the graph.

        Args:
            scenarios: ``(B, M, d_y)``, any floating dtype; like the others a tensor, an array or a list.
            weights: ``(B, M)``, rows with sum 1; uniform if None.
            bandwidth: ``(B, d_y)``, fixed or differentiable; by the rule above if None. Only with
                ``curvature="convolved"``.
            context: ``(B, d_x)``, for programs whose constraints depend on it.
            start: ``(B, n)``, first guess of the decisions.

        Raises:
            SolverFailure: too many instances were not solved.
            TypeError: scenarios that are not floating, or a device without float64.
            ValueError: shapes that do not match.
        """
        if torch.compiler.is_compiling():
            return _outside_of_graph()(self, scenarios, weights, bandwidth, context, start)
        y = checked_scenarios(scenarios).double()
        others = {"weights": weights, "bandwidth": bandwidth, "context": context}
        instances = Instances.of(y, **{name: _like(name, x, y) for name, x in others.items()})
        if self.solver == "cvxpylayers":
            refuse_context(self._decided, instances, "cvxpylayers")
            return self._forward_cvxpylayers(y, weights)
        if bandwidth is None:
            instances = replace(instances, bandwidth=self.bandwidth(y, instances.weights))
        elif self.curvature != "convolved":
            raise ValueError(
                f"curvature={self.curvature!r} solves the exact program and takes no bandwidth"
            )
        begin = time.perf_counter()
        record = SolveRecord(count=self._count_degenerate)
        decision = ImplicitDecision.decide(
            self._decided,
            instances,
            fitting("start", _like("start", start, y), y, len(y), self.program.num_decisions),
            SolveOptions(self.solver, self.curvature, self.on_failure),
            record,
        )
        solution = record.solution
        assert solution is not None
        self.last_solution = solution
        self.statistics.retried += record.recovery.retried
        self.statistics.by_retry += record.recovery.by_retry
        self.statistics.by_reference += record.recovery.by_reference
        self._judge(solution.status, time.perf_counter() - begin, solution)
        return decision

    @torch.no_grad()
    def solve(
        self,
        scenarios: Numbers,
        exact: bool = False,
        context: Numbers | None = None,
        weights: Numbers | None = None,
    ) -> Solution:
        """Decide without a gradient, by the layer's rule or by the exact program; not counted.

        Args:
            scenarios: ``(B, M, d_y)``, any floating dtype.
            exact: without the bandwidth.
            context: ``(B, d_x)``, for programs whose constraints depend on it.
            weights: ``(B, M)``, rows with sum 1; uniform if None.
        """
        scenarios = checked_scenarios(scenarios).double()
        weights = _like("weights", weights, scenarios)
        width = None if exact else self.bandwidth(scenarios, weights)
        context = _like("context", context, scenarios)
        # cvxpylayers is a way to differentiate Clarabel's solution.
        solver = "cvxpy" if self.solver == "cvxpylayers" else self.solver
        program = self.program if exact else self._decided
        return solve(program, scenarios, weights, width, context, solver=solver)

    def bandwidth(self, scenarios: Tensor, weights: Tensor | None = None) -> Tensor:
        """The width the layer uses for these scenarios, ``(B, d_y)``."""
        if not self.smooths:
            return torch.zeros_like(scenarios[:, 0])
        return bandwidth_rule(scenarios, weights, self.bandwidth_scale, self.sample_size)

    def _forward_cvxpylayers(self, scenarios: Tensor, weights: Numbers | None) -> Tensor:
        from diffusion_dfl.layers.cvxpylayers_backend import CvxpyDecision

        if weights is not None:
            raise ValueError(
                "solver='cvxpylayers' takes uniform weights only (a weighted statement is not "
                "DPP), so it has no score gradient; use solver='auto'"
            )
        if self.program.learns(scenarios):
            raise ValueError(
                "solver='cvxpylayers' differentiates its scenarios only, and a tensor of the program "
                "requires a gradient; use solver='auto', or detach() the tensor"
            )
        begin = time.perf_counter()
        decision, status = CvxpyDecision.of(self._decided, scenarios.shape[1])(scenarios)
        self.last_solution = None
        self._judge(status, time.perf_counter() - begin)
        return decision

    def _judge(self, status: Tensor, seconds: float, solution: Solution | None = None) -> None:
        failures = int((status != int(Status.SOLVED)).sum())
        self.statistics.instances += len(status)
        self.statistics.failures += failures
        self.statistics.seconds += seconds
        allowed = 0.0 if self.on_failure == "raise" else self.max_failure_share
        if failures > allowed * len(status):
            told = report(status) if solution is None else solution.report()
            failure = SolverFailure(f"the decision layer failed on {told}")
            failure.invalid = bool((status == int(Status.INVALID_INPUT)).any())
            raise failure

    def _warn_of_vertices(self, vertex: Tensor) -> None:
        """Say once that decisions teach nothing: many in a row stood still at vertices."""
        self._at_vertices = self._at_vertices + len(vertex) if bool(vertex.all()) else 0
        if self._warned or self._at_vertices < _MANY:
            return
        self._warned = True
        logger.warning(
            "all of the last %d decisions of %s stand at vertices, where as many constraints bind as "
            "there are decisions: their derivative is 0 and the decision cost teaches nothing. Give the "
            "cost curvature, e.g. regularise=Regulariser(%.3g) in DecisionLayer or DecisionRule, or train "
            "with SetScore, which needs no derivative (docs/decision_layer.md, linear programs)",
            self._at_vertices,
            type(self.program).__name__,
            self._typical_weight(),
        )

    def _typical_weight(self) -> float:
        """A regulariser's weight that moves decisions by a tenth of their size: slope over size."""
        solution = self.last_solution
        if solution is None or not bool(solution.solved.any()):
            return 1.0
        part = solution.select(torch.nonzero(solution.solved).flatten())
        slope = float(part.subgradients.mean(1).abs().mean())
        size = float(part.decision.abs().mean())
        return float(f"{max(slope, 1e-12) / max(size, 1e-12):.1g}")

    def _count_degenerate(self, degeneracy: Degeneracy, still: Tensor) -> None:
        self.statistics.vertices += int(degeneracy.vertex.sum())
        self._warn_of_vertices(degeneracy.vertex & still)
        self.statistics.rank_deficient += int(degeneracy.rank_deficient.sum())
        self.statistics.weak += int(degeneracy.weak.sum())


def _outside_of_graph() -> Callable[..., Tensor]:
    """The forward that torch.compile leaves as it is: a solver branches on its data.

    Made when it is needed, since to say so imports the compiler.
    """
    return torch.compiler.disable(DecisionLayer.forward)


def _regularised(program: Program, regularise: Regulariser | None) -> Program:
    if regularise is None:
        return program
    if isinstance(program, TwoStageProgram):
        return program.regularised(regularise)
    return Regularised(program, regularise)


def _like(name: str, value: Numbers | None, scenarios: Tensor) -> Tensor | None:
    """An argument in float64; what is no tensor yet, on the scenarios' device."""
    if value is None:
        return None
    found = as_tensor(name, value).double()
    return found if isinstance(value, Tensor) else found.to(scenarios.device)
