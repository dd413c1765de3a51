"""How close each estimator's gradient is to the true one on the power task, and at what cost.

The true gradient is the mean of many reparameterised draws with the same sampler, M and decision rule.
One axis at a time around a base point.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_dfl.estimators import Batch, Reparam, Score, ScorePath
from diffusion_dfl.estimators.base import Estimator
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor
from diffusion_dfl.predictors.diffusion import Elbo, ElboSurrogate, Sampler
from diffusion_dfl.programs import PowerProgram
from laboratory.common import at_least, cosine, draws, spread, trained_power
from laboratory.files import MARKERS, PALETTE, environment, panels, write_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """One setting of everything that is varied.

    Attributes:
        estimator: ``reparam``, ``last K``, ``score``, ``score_path`` or ``score, fresh``.
        scenarios: M.
        timesteps: k.
        scheme: ``elbo_timesteps``.
        common_noise: of :class:`ElboSurrogate`.
        eta: of a DDIM sampler; None for ancestral, variance beta.
        bandwidth_scale: c.
        curvature: of the decision layer.
        clip: ``weight_clip``.
    """

    estimator: str = "score"
    scenarios: int = 100
    timesteps: int = 2
    scheme: str = "stratified"
    common_noise: bool = False
    eta: float | None = None
    bandwidth_scale: float = 2.0
    curvature: str = "convolved"
    clip: float = 0.0

    @property
    def truth(self) -> "Point":
        """The setting whose mean is the true gradient."""
        return Point("reparam", self.scenarios, eta=self.eta, bandwidth_scale=self.bandwidth_scale)


BASE = Point()
POINTS: dict[str, list[Point]] = {
    "estimator": [
        replace(BASE, estimator=name)
        for name in ("reparam", "last 3", "last 1", "score", "score, fresh", "score_path")
    ],
    "M": [replace(BASE, scenarios=m) for m in (25, 50, 200)],
    "k": [replace(BASE, timesteps=k) for k in (1, 4, 8)],
    "timesteps": [
        replace(BASE, scheme="uniform"),
        replace(BASE, scheme="stratified_importance"),
        replace(BASE, scheme="stratified_importance", common_noise=True),
    ],
    "eta": [replace(BASE, eta=eta) for eta in (0.0, 0.5, 1.0)],
    "bandwidth": [replace(BASE, bandwidth_scale=c) for c in (0.5, 1.0, 1.5)],
    "curvature": [
        replace(BASE, curvature="paper"),
        replace(BASE, estimator="reparam", curvature="paper"),
    ],
    "weight_clip": [replace(BASE, clip=clip) for clip in (2.0, 4.0)],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--draws", type=at_least(2), default=16, help="draws of each estimator")
    parser.add_argument("--truth", type=at_least(2), default=32, help="draws of the true gradient")
    parser.add_argument("--days", type=at_least(1), default=32)
    parser.add_argument("--axes", nargs="+", choices=list(POINTS), default=list(POINTS))


def run(arguments: argparse.Namespace) -> int:
    """Measure, write results/gradient_lab/power.{json,md,png,pdf} after every axis; 0."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    predictor, batch = trained_power(arguments.results, arguments.days)
    truths: dict[Point, tuple[Tensor, float]] = {}
    rows: list[dict[str, Any]] = []
    for axis in arguments.axes:
        for point in POINTS[axis]:
            if point.truth not in truths:
                found = _gradients(predictor, batch, point.truth, range(arguments.truth))
                half = arguments.truth // 2
                floor = cosine(found[:half].mean(0), found[half:].mean(0))
                truths[point.truth] = found.mean(0), floor
            true, floor = truths[point.truth]
            begin = time.perf_counter()
            found = _gradients(predictor, batch, point, range(1000, 1000 + arguments.draws))
            seconds = (time.perf_counter() - begin) / arguments.draws
            mean = found.mean(0)
            each = [cosine(row, true) for row in found]
            cost = _row_evaluations(predictor, point) * arguments.days / 1e6
            variance = spread(found) / float(true.square().sum())
            rows.append(
                {
                    "axis": axis,
                    **point.__dict__,
                    "cosine_one": statistics.fmean(each),
                    "cosine_one_sd": statistics.stdev(each),
                    "cosine_mean": cosine(mean, true),
                    "floor": floor,
                    "relative_variance": variance,
                    "million_rows": cost,
                    "variance_times_cost": variance * cost,
                    "seconds": seconds,
                }
            )
            print(f"{axis}: {_name(point, axis)}: cosine {rows[-1]['cosine_one']:.2f}", flush=True)
        _write(arguments, rows, time.perf_counter() - started)
    return 0


def _gradients(predictor: DiffusionPredictor, batch: Batch, point: Point, seeds: range) -> Tensor:
    sampling = replace(
        predictor.sampler.sampling,
        sampler="ancestral" if point.eta is None else "ddim",
        eta=1.0 if point.eta is None else point.eta,
        final_noise=point.eta != 0.0,
    )
    predictor.sampler = Sampler(predictor.schedule, sampling)
    history = predictor.elbo.history.clone()
    surrogate = ElboSurrogate(
        num_elbo_timesteps=point.timesteps,
        elbo_timesteps=point.scheme,  # type: ignore[arg-type]
        common_noise=point.common_noise,
    )
    predictor.elbo = Elbo(predictor.schedule, predictor.sampler, surrogate)
    predictor.elbo.history.copy_(history)
    layer = DecisionLayer(
        PowerProgram(),
        point.bandwidth_scale,
        curvature=point.curvature,  # type: ignore[arg-type]
    )
    estimator = _estimator(point)

    def value(generator: torch.Generator) -> Tensor:
        return estimator(predictor, layer, batch, generator).value

    if predictor.elbo.uses_history:
        draws(predictor, value, range(50_000, 50_010))
    return draws(predictor, value, seeds)


def _estimator(point: Point) -> Estimator:
    count = point.scenarios
    if point.estimator == "reparam":
        return Reparam(count, fit_weight=0.0)
    if point.estimator.startswith("last"):
        steps = int(point.estimator.split()[1])
        return Reparam(count, fit_weight=0.0, backpropagation="last", last_steps=steps)
    if point.estimator == "score_path":
        return ScorePath(count, fit_weight=0.0, weight_clip=point.clip)
    fresh = count if point.estimator == "score, fresh" else 0
    return Score(count, fit_weight=0.0, num_gradient_scenarios=fresh, weight_clip=point.clip)


def _row_evaluations(predictor: DiffusionPredictor, point: Point) -> int:
    """Network rows a day: 1 forward, 2 backward."""
    steps, count = predictor.num_sampling_steps, point.scenarios
    if point.estimator == "reparam":
        return 3 * steps * count
    if point.estimator.startswith("last"):
        return (steps + 2 * int(point.estimator.split()[1])) * count
    if point.estimator == "score_path":
        return (steps + 3 * steps) * count
    sampled = 2 * count if point.estimator == "score, fresh" else count
    return steps * sampled + 3 * point.timesteps * count


def _name(point: Point, axis: str) -> str:
    """What differs from the base point."""
    changed = [
        f"{key}={value}" for key, value in point.__dict__.items() if getattr(BASE, key) != value
    ]
    return ", ".join(changed) or "base"


def _write(arguments: argparse.Namespace, rows: list[dict[str, Any]], seconds: float) -> None:
    record = {
        "command": f"python scripts/gradient_lab.py power --draws {arguments.draws}",
        "environment": environment(),
        "seconds": seconds,
        "days": arguments.days,
        "truth": arguments.truth,
        "rows": rows,
    }
    write_files(arguments.results / "gradient_lab", "power", record, render, figure)


def render(record: dict[str, Any]) -> str:
    """The table as Markdown."""
    base = ", ".join(f"{key} {value}" for key, value in BASE.__dict__.items())
    lines = [
        "# Gradients on the power task",
        "",
        "![Cosine against cost](power.png)",
        "",
        f"`{record['command']}`, {record['seconds']:.0f} s on one thread. Two-stage diffusion, seed 0, "
        f"{record['days']} training days. The true gradient is the mean of {record['truth']} "
        "reparameterised draws with the same sampler, M and c (convolved); *floor* is the cosine of its "
        "two halves. *One* and *mean*: cosine of one draw (± standard deviation over draws), and of the "
        "mean of the draws, with it. "
        "*Variance*: trace of the covariance of a draw over the squared norm of the true gradient. "
        "The simple ELBO has a scale of its own, so that variances compare among score rows, not with "
        "reparam or score_path. *Cost*: millions of network rows a draw, a backward pass counted twice "
        "a forward one.",
        "",
        f"Base point: {base}. (eta None is the ancestral sampler with variance beta.)",
        "",
        "| axis | changed | one | mean | floor | variance | cost | variance × cost | s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        lines.append(
            f"| {row['axis']} | {_name(_point(row), row['axis'])} "
            f"| {row['cosine_one']:.2f} ± {row['cosine_one_sd']:.2f} "
            f"| {row['cosine_mean']:.2f} | {row['floor']:.2f} | {row['relative_variance']:.1f} "
            f"| {row['million_rows']:.2f} | {row['variance_times_cost']:.2f} | {row['seconds']:.2f} |"
        )
    return "\n".join([*lines, ""])


def figure(record: dict[str, Any]) -> "Figure":
    """Cosine with the true gradient, and cost, of every row of the table."""
    rows = record["rows"]
    made, axes = panels(1, 2, 10.0, 1.4 + 0.24 * len(rows), sharey=True)
    places = range(len(rows))
    left, right = axes[0]
    dots = {"linestyle": "none", "markersize": 5}
    left.errorbar(
        [row["cosine_one"] for row in rows],
        places,
        xerr=[row["cosine_one_sd"] for row in rows],
        color=PALETTE[0],
        marker=MARKERS[0],
        label="one draw (± sd)",
        **dots,
    )
    for index, (name, label) in enumerate(
        (("cosine_mean", "mean of the draws"), ("floor", "halves of the true gradient")), start=1
    ):
        values = [row[name] for row in rows]
        left.plot(values, places, color=PALETTE[index], marker=MARKERS[index], label=label, **dots)
    left.set_xlabel("cosine with the true gradient")
    names = [_name(_point(row), row["axis"]) for row in rows]
    left.set_yticks(places, names, fontsize=8)
    left.invert_yaxis()
    left.set_ylabel("changed from the base point")
    made.legend(fontsize=8, loc="outside upper center", ncols=3)
    costs = [row["million_rows"] for row in rows]
    right.plot(costs, places, color=PALETTE[6], marker=MARKERS[3], **dots)
    right.set_xlim(left=0)
    right.set_xlabel("cost of a draw (million rows)")
    return made


def _point(row: dict[str, Any]) -> Point:
    return Point(**{key: row[key] for key in BASE.__dict__})
