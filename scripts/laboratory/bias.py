"""What clip, trust region and ELBO weights cost the score: bias and noise against known gradients.

On a Gaussian, whose gradient is known in closed form, for M from 50 to 1600; and on the two-stage
diffusion of the power task, against the pathwise gradient.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from laboratory.bias_closed_form import CASES, RULES, rows_of
from laboratory.bias_diffusion import SETTINGS, Bench
from laboratory.bias_diffusion import rows_of as diffusion_rows
from laboratory.bias_report import figure, markdown
from laboratory.common import at_least, trained_power
from laboratory.files import environment, write_files

PARTS = ("closed", "diffusion")
#: c of the diffusion's power cells.
_BANDWIDTH_SCALE = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument(
        "--rows",
        type=at_least(2),
        default=2000,
        help="draws of a Gaussian; a fifth of it at d = 24",
    )
    parser.add_argument(
        "--sizes",
        type=at_least(3),
        nargs="+",
        default=[50, 100, 200, 400, 1600],
        help="values of M",
    )
    parser.add_argument("--draws", type=at_least(3), default=32, help="draws of the diffusion")
    parser.add_argument("--days", type=at_least(1), default=64, help="contexts of the diffusion")
    parser.add_argument("--scenarios", type=at_least(3), default=200, help="M of the diffusion")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))


def run(arguments: argparse.Namespace) -> int:
    """Measure, write results/gradient_lab/bias.{json,md,png,pdf}; 0."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    record: dict[str, Any] = {
        "command": _command(arguments),
        "environment": environment(),
        "settings": {
            key: getattr(arguments, key) for key in ("rows", "sizes", "draws", "days", "scenarios")
        },
        "closed": [],
        "diffusion": [],
    }
    folder, paths = arguments.results / "gradient_lab", []
    for part in arguments.parts:
        record[part] = {"closed": _closed, "diffusion": _diffusion}[part](arguments)
        record["seconds"] = round(time.perf_counter() - started)
        # After each part: the second takes most of the time.
        paths = write_files(folder, "bias", record, markdown, figure)
    for path in paths:
        print(f"wrote {path}")
    return 0


def _command(arguments: argparse.Namespace) -> str:
    parts = "" if tuple(arguments.parts) == PARTS else f" --parts {' '.join(arguments.parts)}"
    return f"python scripts/gradient_lab.py bias --draws {arguments.draws}{parts}"


def _closed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for case in CASES:
        for scenarios in arguments.sizes:
            rows = arguments.rows if case.hours == 1 else max(arguments.rows // 5, 2)
            found += rows_of(case, scenarios, RULES, rows)
            print(f"{case.name}, M = {scenarios}", flush=True)
    return found


def _diffusion(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    predictor, batch = trained_power(arguments.results, arguments.days)
    bench = Bench(predictor, batch, arguments.scenarios, _BANDWIDTH_SCALE)
    steps = predictor.num_sampling_steps
    # Of the sampler's own steps no more than there are can be drawn.
    possible = tuple(one for one in SETTINGS if one.steps != "sampler" or one.count <= steps)
    if len(possible) < len(SETTINGS):
        left = len(SETTINGS) - len(possible)
        print(f"{left} settings need more than the preset's {steps} sampling steps: left out")
    return diffusion_rows(bench, possible, arguments.draws, arguments.draws)
