"""``benchmark.py solvers``: our decision layer against the peers, and how its cost grows."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, quick
from benchmarks.measure import CaseResult, Effort, one_thread, run_case
from benchmarks.report import environment, write
from benchmarks.scaling import sweeps

QUICK = Effort(rounds=1, budget=0.02, burst=0.0, fewest=1, checked=2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = [case.name for case in CASES]
    parser.add_argument("--quick", action="store_true", help="tiny sizes; numbers mean nothing")
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE")
    parser.add_argument("--no-scaling", action="store_true", help="leave the growth tables out")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the files, print the summary; 0, or 1 if ours misses an error goal."""
    one_thread()
    effort = QUICK if arguments.quick else Effort()
    outcomes = []
    for case in CASES:
        if case.name in arguments.cases:
            outcomes.append(run_case(quick(case) if arguments.quick else case, effort))
            _say(outcomes[-1])
    growth = (
        []
        if arguments.no_scaling
        else sweeps(set(arguments.cases), effort.burst, small=arguments.quick)
    )
    record: dict[str, Any] = {
        "environment": environment(),
        "settings": asdict(effort) | {"quick": arguments.quick, "command": _command(arguments)},
        "cases": [outcome.record() for outcome in outcomes],
        "scaling": [sweep.record() for sweep in growth],
    }
    for path in write(record, arguments.output):
        print(f"wrote {path}")
    missed = [outcome.case.name for outcome in outcomes if not _accurate(outcome)]
    if missed:
        print(f"errors above their goal in {', '.join(missed)}")
    return 1 if missed else 0


def _accurate(outcome: CaseResult) -> bool:
    ours, goal = outcome.results[0], outcome.case.goal_error
    return max(ours.gap or 0.0, ours.kkt or 0.0) <= goal


def _command(arguments: argparse.Namespace) -> str:
    words = ["python scripts/benchmark.py solvers"]
    if arguments.quick:
        words.append("--quick")
    if len(arguments.cases) < len(CASES):
        words += ["--cases", *arguments.cases]
    if arguments.no_scaling:
        words.append("--no-scaling")
    return " ".join(words)


def _say(outcome: CaseResult) -> None:
    ours = outcome.results[0]
    print(f"{outcome.case.title}: {ours.forward_ms:.3g} ms, with backward {ours.both_ms:.3g} ms")
    for peer in outcome.results[1:]:
        if peer.status != "ran":
            print(f"  {peer.name}: {peer.status}")
            continue
        both = "" if peer.ratio_both is None else f", with backward {peer.ratio_both:.3g}x"
        print(f"  {peer.name}: {peer.ratio_forward:.3g}x{both}", flush=True)
