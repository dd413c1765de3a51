"""Time the contenders of a case in turns, in one process and one thread, and judge their answers."""

import gc
import os
import statistics
import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.errors import (
    Optimum,
    best_convolved,
    best_exact,
    kkt_residual,
    mean_cost,
    violation,
)
from benchmarks.peers import OURS, PEERS, Contender, Solve, Unavailable
from diffusion_dfl.programs import Instances
from diffusion_dfl.solvers import solve


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: turns of ours and a peer.
        budget: seconds that one timed call of a peer may take; a peer that needs longer for the
            whole batch solves its first instances, at least ``fewest``.
        burst: seconds of repetition of ours in a turn.
        checked: instances that are compared with tight Clarabel.
    """

    rounds: int = 3
    budget: float = 8.0
    burst: float = 0.3
    fewest: int = 4
    checked: int = 8


@dataclass
class Result:
    """One contender on one case; milliseconds are for the whole batch of B.

    Attributes:
        instances: solved in a timed call; times are scaled linearly to B.
        ratio_forward, ratio_both: time of this contender over ours, median over the rounds.
        gap: objective over the best known, relative; of the program the contender solves.
        kkt: KKT residual, ours only: peers do not hand out subgradients and multipliers alike.
        decision_difference: largest distance to the best known decision.
        gradient_difference: of dL/dscenarios to ours, relative.
    """

    name: str
    status: str = "ran"
    setup_seconds: float | None = None
    instances: int | None = None
    forward_ms: float | None = None
    both_ms: float | None = None
    ratio_forward: float | None = None
    ratio_both: float | None = None
    gap: float | None = None
    kkt: float | None = None
    violation: float | None = None
    decision_difference: float | None = None
    gradient_difference: float | None = None
    rounds: int | None = None


@dataclass
class CaseResult:
    """All contenders on one case."""

    case: Case
    reference_gap: float
    results: list[Result] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """For json."""
        case = self.case
        return {
            "name": case.name,
            "title": case.title,
            "batch": case.batch,
            "num_scenarios": case.num_scenarios,
            "num_decisions": case.num_decisions,
            "convolved": case.convolved,
            "goal_ratio": case.goal_ratio,
            "goal_error": case.goal_error,
            "clarabel_tight_gap": self.reference_gap,
            "results": [asdict(result) for result in self.results],
        }


def one_thread() -> None:
    """Keep this process on one core: thread pools of peers cannot then do better than one."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def forward_seconds(solver: Solve, scenarios: Tensor) -> float:
    """Time of a decision without gradients."""
    with torch.no_grad():
        begin = time.perf_counter()
        solver(scenarios)
        return time.perf_counter() - begin


def both_seconds(solver: Solve, scenarios: Tensor, direction: Tensor) -> float:
    """Time of a decision and of the gradient of its product with ``direction``."""
    scenarios = scenarios.detach().requires_grad_()
    begin = time.perf_counter()
    (solver(scenarios) * direction).sum().backward()
    return time.perf_counter() - begin


def burst(
    solver: Solve, scenarios: Tensor, direction: Tensor, seconds: float
) -> tuple[float, float]:
    """Medians of repeated calls, forward and both."""
    begin = time.perf_counter()
    forward: list[float] = []
    both: list[float] = []
    while len(both) < 3 or (time.perf_counter() - begin < seconds and len(both) < 30):
        forward.append(forward_seconds(solver, scenarios))
        both.append(both_seconds(solver, scenarios, direction))
    return statistics.median(forward), statistics.median(both)


def run_case(case: Case, effort: Effort, peers: tuple[Contender, ...] = PEERS) -> CaseResult:
    """Every contender on ``case``."""
    scenarios = case.scenarios()
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(
        case.batch, case.num_decisions, generator=generator, dtype=torch.float64
    )
    layer = case.layer()
    decision, gradient = _decide(layer, scenarios, direction)
    solution = layer.last_solution
    assert solution is not None and bool(solution.solved.all()), "ours did not solve the case"
    case.check(solution)
    program, width = case.program, layer.bandwidth(scenarios)
    checked = scenarios[: effort.checked]
    exact = solve(program, scenarios).decision
    optimum, reference_gap = best_exact(program, checked, exact[: effort.checked])
    ours = Result(OURS.name, setup_seconds=0.0, instances=case.batch, ratio_forward=1.0)
    ours.ratio_both = 1.0
    ours.kkt = kkt_residual(program, scenarios, width, solution)
    ours.violation = violation(program, decision)
    mine = decision[: effort.checked]
    if case.convolved:
        convolved = best_convolved(program, checked, width[: effort.checked], mine)
        given = Instances.of(checked, None, width[: effort.checked])
        values = program.objective(given, mine)
        ours.gap = convolved.gap(values)
        ours.decision_difference = float((mine - convolved.decision).abs().max())
    else:
        ours.gap = optimum.gap(mean_cost(program, checked, mine))
        ours.decision_difference = float((mine - optimum.decision).abs().max())
    outcome = CaseResult(case, reference_gap, [ours])
    # Gradients of the convolved program are not those of the exact one.
    compared = None if case.convolved else gradient
    turns: list[tuple[float, float]] = []
    for peer in peers:
        result = Result(peer.name)
        outcome.results.append(result)
        try:
            _run_peer(
                peer, case, effort, scenarios, direction, layer, optimum, compared, result, turns
            )
        except Unavailable as reason:
            result.status = f"not run: {reason}"
        except Exception as error:  # a peer that breaks is a result, not the benchmark's end
            result.status = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        gc.collect()
    if not turns:
        turns.append(burst(layer, scenarios, direction, effort.burst))
    ours.forward_ms = 1e3 * statistics.median(turn[0] for turn in turns)
    ours.both_ms = 1e3 * statistics.median(turn[1] for turn in turns)
    ours.rounds = len(turns)
    return outcome


def _decide(solver: Solve, scenarios: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    scenarios = scenarios.detach().requires_grad_()
    decision = solver(scenarios)
    (gradient,) = torch.autograd.grad((decision * direction).sum(), scenarios)
    return decision.detach(), gradient


def _run_peer(
    peer: Contender,
    case: Case,
    effort: Effort,
    scenarios: Tensor,
    direction: Tensor,
    layer: Solve,
    optimum: Optimum,
    gradient: Tensor | None,
    result: Result,
    turns: list[tuple[float, float]],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        solver = peer.make(case)
        # The first call may compile; it belongs to the setup.
        forward_seconds(solver, scenarios[:1])
        result.setup_seconds = time.perf_counter() - begin
        if peer.differentiable:
            single = both_seconds(solver, scenarios[:1], direction[:1])
        else:
            single = forward_seconds(solver, scenarios[:1])
        instances = min(case.batch, max(effort.fewest, int(effort.budget / single)))
        some, along = scenarios[:instances], direction[:instances]
        forward_seconds(solver, some)
        scale = case.batch / instances
        forward, both, ratios = [], [], []
        # A second turn of a call that is this slow would not change its place.
        rounds = effort.rounds if single * instances <= effort.budget else 1
        for _ in range(rounds):
            ours = burst(layer, scenarios, direction, effort.burst)
            turns.append(ours)
            forward.append(scale * forward_seconds(solver, some))
            if peer.differentiable:
                both.append(scale * both_seconds(solver, some, along))
            ratios.append((forward[-1] / ours[0], (both[-1] if both else 0.0) / ours[1]))
        result.instances, result.rounds = instances, rounds
        result.forward_ms = 1e3 * statistics.median(forward)
        result.ratio_forward = statistics.median(ratio[0] for ratio in ratios)
        if both:
            result.both_ms = 1e3 * statistics.median(both)
            result.ratio_both = statistics.median(ratio[1] for ratio in ratios)
        _judge(peer, solver, case, some, along, optimum, gradient, result)


def _judge(
    peer: Contender,
    solver: Solve,
    case: Case,
    scenarios: Tensor,
    direction: Tensor,
    optimum: Optimum,
    gradient: Tensor | None,
    result: Result,
) -> None:
    """Errors of a peer, on the program that it solves: the exact one."""
    if peer.differentiable:
        decision, theirs = _decide(solver, scenarios, direction)
        if gradient is not None:
            mine = gradient[: len(scenarios)]
            result.gradient_difference = float((theirs - mine).norm() / mine.norm())
    else:
        decision = solver(scenarios).detach()
    result.violation = violation(case.program, decision)
    count = min(len(decision), len(optimum.decision))
    known = Optimum(optimum.decision[:count], optimum.objective[:count], optimum.scale[:count])
    result.gap = known.gap(mean_cost(case.program, scenarios[:count], decision[:count]))
    result.decision_difference = float((decision[:count] - known.decision).abs().max())
