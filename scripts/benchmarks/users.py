"""``benchmark.py users``: problems such as users bring, held against cvxpylayers in one run.

One thread, forward and backward of a batch; times are processor seconds, the median over rounds in
which the contenders take turns. Beside the times: the largest gap of our objective to Clarabel at
tight tolerances, and the largest error of our gradient against central differences.
"""

import argparse
import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cvxpy as cp
import torch
from torch import Tensor

from benchmarks.user_problems import LARGE, D, Problem, problems
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Instances, TwoStageProgram
from diffusion_dfl.solvers import solve

#: How many times faster than cvxpylayers with Clarabel each problem is to be, forward and backward.
GOALS = {
    "cvar": 5,
    "cvar an item": 10,
    "storage": 3,
    "l1 cost": 5,
    "ball": 10,
    "two resources": 10,
    "balancing": 1,
}


@dataclass
class Row:
    """One problem: milliseconds of forward and backward, and how right ours are.

    Attributes:
        milliseconds: contender -> ``[forward, backward]`` of the batch.
        unsolved: contender -> instances without a decision, or with one that is not the optimum.
        gap: largest objective of ours over Clarabel's, relative.
        gradient: largest error of ours against differences, relative to their mean size, over
            the instances whose differences agree with each other.
        doubled: time with twice the scenarios over time, for programs with recourse.
    """

    name: str
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    unsolved: dict[str, int] = field(default_factory=dict)
    gap: float = 0.0
    gradient: float = 0.0
    doubled: float | None = None


OURS, SMOOTHED = "ours, exact", "ours, convolved"
PEER, CONE = "cvxpylayers, Clarabel", "cvxpylayers, our cones"
MOREAU = "cvxpylayers, moreau"
# Of differences, in deviations of the outcomes.
_STEPS = (1e-4, 3e-5, 1e-5, 3e-6)
#: A decision this far from ours, relative to its size and 1, is another one.
_OFF = 1e-3
#: Instances our cone back end solves in a timed call; its times are scaled to the batch.
_FEW = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=64, help="instances B (default 64)")
    parser.add_argument("--scenarios", type=int, default=50, help="M (default 50)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--problem", choices=tuple(GOALS), help="this one alone")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the files, print the table; 1 if an answer is wrong."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows = []
    for problem in problems(arguments.batch, arguments.scenarios):
        if arguments.problem in (None, problem.name):
            rows.append(_measured(problem, arguments.rounds))
            print(f"{problem.name}: {rows[-1].milliseconds}", flush=True)
    text = markdown(rows, arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = json.dumps([asdict(row) for row in rows], indent=2) + "\n"
    (arguments.output / "users.json").write_text(record, encoding="utf-8")
    (arguments.output / "users.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(row.gap > 1e-8 or row.gradient > 1e-5 for row in rows))


def _measured(problem: Problem, rounds: int) -> Row:
    row = Row(problem.name)
    generator = torch.Generator().manual_seed(5)
    towards = torch.randn(
        len(problem.outcomes), problem.program.num_decisions, **D, generator=generator
    )
    row.gap, row.gradient = _gap(problem), _gradient_error(problem, towards)
    contenders = {OURS: _ours(problem, "saa"), PEER: _peer(problem, None)}
    if isinstance(problem.program, TwoStageProgram):
        row.doubled = _doubled(contenders[OURS], problem.outcomes, towards)
    else:
        contenders |= {SMOOTHED: _ours(problem, "convolved"), CONE: _peer(problem, _FEW)}
        if importlib.util.find_spec("moreau") is not None:
            contenders[MOREAU] = _peer(problem, None, "MOREAU")
    optimum = solve(problem.program, problem.outcomes, context=problem.context).decision
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, decide in contenders.items():
            count = _FEW if name == CONE else len(problem.outcomes)
            # The slow one in fewer turns.
            if name == CONE and number > 1:
                continue
            outcomes = problem.outcomes[:count].clone().requires_grad_()
            context = None if problem.context is None else problem.context[:count]
            begin = time.process_time()
            decision = decide(outcomes, context)
            middle = time.process_time()
            (decision.nan_to_num() * towards[:count]).sum().backward()
            end = time.process_time()
            if name == SMOOTHED:
                off = decision.isnan()
            else:
                reach = _OFF * (1 + optimum[:count].abs().amax(1, keepdim=True))
                off = ~((decision - optimum[:count]).abs() <= reach)
            row.unsolved[name] = int(off.any(1).sum())
            if number:
                scale = 1e3 * len(problem.outcomes) / count
                found[name].append((scale * (middle - begin), scale * (end - middle)))
    row.milliseconds = {
        name: [statistics.median(part) for part in zip(*times, strict=True)]
        for name, times in found.items()
    }
    return row


def _doubled(
    decide: Callable[[Tensor, Tensor | None], Tensor], outcomes: Tensor, towards: Tensor
) -> float:
    """Seconds with every scenario twice over seconds with each once, least of three."""
    seconds = []
    for count in (1, 2):
        inputs = outcomes.repeat(1, count, 1).requires_grad_()
        turns = []
        for _ in range(3):
            begin = time.process_time()
            (decide(inputs, None) * towards).sum().backward()
            turns.append(time.process_time() - begin)
        seconds.append(min(turns))
    return seconds[1] / seconds[0]


def _ours(problem: Problem, curvature: Any) -> Callable[[Tensor, Tensor | None], Tensor]:
    layer = DecisionLayer(
        problem.program, bandwidth_scale=1.5, curvature=curvature, max_failure_share=1.0
    )
    return lambda outcomes, context: layer(outcomes, context=context)


def _peer(
    problem: Problem, cones: int | None, solver: str | None = None
) -> Callable[[Tensor, Tensor | None], Tensor]:
    from cvxpylayers.torch import CvxpyLayer

    from diffusion_dfl.cones.cvxpylayers import BatchedConeSolver

    outcomes = cp.Parameter(problem.outcomes.shape[1:])
    context = None if problem.context is None else cp.Parameter(problem.context.shape[1])
    stated, z = problem.statement(outcomes, context)
    parameters = [outcomes] if context is None else [outcomes, context]
    if cones:
        layer = CvxpyLayer(stated, parameters, [z], solver=BatchedConeSolver(on_failure="drop"))
        options: dict[str, Any] = {}
    elif solver:
        layer, options = CvxpyLayer(stated, parameters, [z], solver=solver), {}
    else:
        layer = CvxpyLayer(stated, parameters, [z])
        jobs = {"n_jobs_forward": 1, "n_jobs_backward": 1}
        options = {"solver_args": {"solve_method": "Clarabel", **jobs}}

    def decide(outcomes: Tensor, context: Tensor | None) -> Tensor:
        values = [outcomes] if context is None else [outcomes, context]
        return layer(*values, **options)[0]

    return decide


def _gap(problem: Problem, checked: int = 12) -> float:
    """Largest relative excess of our exact objective over Clarabel's tight one."""
    outcomes = problem.outcomes[:checked]
    context = None if problem.context is None else problem.context[:checked]
    decision = solve(problem.program, outcomes, context=context).decision
    ours = problem.program.objective(Instances.of(outcomes), decision)
    worst = 0.0
    for index in range(len(outcomes)):
        limits = None if context is None else context[index].numpy()
        stated, _ = problem.statement(outcomes[index].numpy(), limits)
        for tolerance in (1e-12, 1e-11, 1e-10, 1e-9):
            stated.solve(
                solver=cp.CLARABEL,
                tol_gap_abs=tolerance,
                tol_gap_rel=tolerance,
                tol_feas=tolerance,
                max_iter=500,
            )
            if stated.status == "optimal":
                break
        worst = max(worst, float((ours[index] - stated.value) / abs(stated.value)))
    return worst


def _gradient_error(problem: Problem, towards: Tensor) -> float:
    """Of the convolved layer, in a random direction of the outcomes.

    Differences lose digits to rounding where steps are short, and cross kinks where they are long: each
    instance has the step at which the slopes between all five points agree best.
    """
    layer = DecisionLayer(problem.program, bandwidth_scale=1.5, max_failure_share=1.0)
    outcomes = problem.outcomes.clone().requires_grad_()
    way = torch.randn(outcomes.shape, **D, generator=torch.Generator().manual_seed(6))
    way = way * problem.outcomes.std(1, keepdim=True)

    def value(step: float) -> Tensor:
        with torch.no_grad():
            decision = layer(problem.outcomes + step * way, context=problem.context)
        return (decision * towards).sum(1)

    (layer(outcomes, context=problem.context) * towards).sum().backward()
    assert outcomes.grad is not None
    analytic = (outcomes.grad * way).sum((1, 2))
    here, found = value(0.0), []
    for step in _STEPS:
        ahead, behind, far, back = (value(k * step) for k in (1, -1, 2, -2))
        central = (8 * (ahead - behind) - (far - back)) / (12 * step)
        slopes = torch.stack([back, behind, here, ahead, far]).diff(dim=0) / step
        apart = (slopes.amax(0) - slopes.amin(0)) / (2e-4 * slopes.abs().mean(0) + 1e-5)
        found.append(torch.stack([central, apart]))
    central, apart = torch.stack(found, dim=1)
    best = apart.argmin(0, keepdim=True)
    central, apart = (values.gather(0, best)[0] for values in (central, apart))
    size = central.abs() + central.abs().mean()
    return float(((analytic - central).abs() / size)[apart <= 1].max())


def markdown(rows: list[Row], arguments: argparse.Namespace) -> str:
    """The table, and which goals are met."""
    lines = [
        "# Problems such as users bring",
        "",
        f"`python scripts/benchmark.py users`: B={arguments.batch}, M={arguments.scenarios}, one "
        "thread, milliseconds of processor time, forward + backward, median of "
        f"{arguments.rounds} turns. Our cone back end solves {_FEW} instances, scaled to B, and is not "
        f"asked for balancing, which has B / {LARGE} instances and decisions in every scenario. Times are "
        "those over cvxpylayers with Clarabel; decisions are off that differ from the optimum. The "
        "objective's gap is to Clarabel at tight tolerances, the gradient's error to differences.",
        "",
        f"| problem | {OURS} | {SMOOTHED} | {PEER} | {MOREAU} | {CONE} | exact, times faster "
        "| convolved | goal | gap | gradient |",
        "|" + "---|" * 11,
    ]
    for row in rows:
        cells = []
        for name in (OURS, SMOOTHED, PEER, MOREAU, CONE):
            if name not in row.milliseconds:
                cells.append("")
                continue
            forward, backward = row.milliseconds[name]
            lost = f" ({row.unsolved[name]} unsolved or off)" if row.unsolved[name] else ""
            cells.append(f"{forward:,.0f} + {backward:,.0f}{lost}")
        peer, mine = (sum(row.milliseconds[name]) for name in (PEER, OURS))
        smoothed = row.milliseconds.get(SMOOTHED)
        ratios = [peer / mine] + ([] if smoothed is None else [peer / sum(smoothed)])
        cells += [f"{ratio:.1f}" for ratio in ratios] + [""] * (2 - len(ratios))
        met = "met" if min(ratios) >= GOALS[row.name] else "missed"
        cells += [f"{GOALS[row.name]} ({met})", f"{row.gap:.0e}", f"{row.gradient:.0e}"]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lines += [
        f"\n{row.name.capitalize()} with twice the scenarios: {row.doubled:.1f} times the time."
        for row in rows
        if row.doubled is not None
    ]
    return "\n".join(lines) + "\n"
