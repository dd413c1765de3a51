"""Variance of the ELBO surrogate's gradient by timestep scheme, at equal network evaluations.

Scenarios and weights are fixed, those of the two-stage diffusion of the power task; only timesteps and
noise are drawn anew, so that nothing but the surrogate is measured.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffusion_dfl.estimators import score_weights
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors.diffusion import Elbo, ElboSurrogate
from diffusion_dfl.programs import PowerProgram
from laboratory.common import at_least, cosine, draws, jackknife_ratio, spread, trained_power
from laboratory.files import PALETTE, environment, panels, write_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name -> surrogate, but for its k; the first is the unit.
SCHEMES: dict[str, ElboSurrogate] = {
    "uniform": ElboSurrogate(elbo_timesteps="uniform", antithetic=False),
    "uniform, antithetic": ElboSurrogate(elbo_timesteps="uniform"),
    "stratified": ElboSurrogate(antithetic=False),
    "stratified, antithetic": ElboSurrogate(),
    "stratified, antithetic, common noise": ElboSurrogate(common_noise=True),
    "importance": ElboSurrogate(elbo_timesteps="importance", antithetic=False),
    "importance, antithetic": ElboSurrogate(elbo_timesteps="importance"),
    "stratified importance": ElboSurrogate(
        elbo_timesteps="stratified_importance", antithetic=False
    ),
    "stratified importance, antithetic": ElboSurrogate(elbo_timesteps="stratified_importance"),
    "stratified importance, antithetic, common noise": ElboSurrogate(
        elbo_timesteps="stratified_importance", common_noise=True
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument(
        "--draws", type=at_least(20), default=120, help="redraws of timesteps and noise"
    )
    parser.add_argument("--days", type=at_least(1), default=16)
    parser.add_argument("--scenarios", type=at_least(2), default=20)
    parser.add_argument(
        "--timesteps", type=at_least(1), nargs="+", default=[10, 2], help="values of k"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, write results/gradient_lab/variance.{json,md,png,pdf}; 0."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    predictor, batch = trained_power(arguments.results, arguments.days)
    layer = DecisionLayer(PowerProgram(), 1.5, sample_size=arguments.scenarios)
    generator = torch.Generator().manual_seed(0)
    scenarios = predictor.sample(batch.context, arguments.scenarios, generator)
    _, weights = score_weights(layer, scenarios, batch.outcome)

    def surrogate(noise: torch.Generator) -> torch.Tensor:
        return predictor.weighted_log_density(batch.context, scenarios, weights, noise).value

    rows = []
    for k in arguments.timesteps:
        unit = None
        for name, scheme in SCHEMES.items():
            history = predictor.elbo.history.clone()
            surrogate_of_k = replace(scheme, num_elbo_timesteps=k)
            predictor.elbo = Elbo(predictor.schedule, predictor.sampler, surrogate_of_k)
            predictor.elbo.history.copy_(history)
            if predictor.elbo.uses_history:
                draws(predictor, surrogate, range(10_000, 10_020))  # fills the history
            found = draws(predictor, surrogate, range(arguments.draws))
            unit = found if unit is None else unit
            ratio, error = jackknife_ratio(found, unit)
            rows.append(
                {
                    "k": k,
                    "scheme": name,
                    "variance": ratio,
                    "error": error,
                    "relative_variance": spread(found) / float(found.mean(0).square().sum()),
                    "cosine_of_means": cosine(found.mean(0), unit.mean(0)),
                }
            )
            print(f"k={k} {name}: {ratio:.3f} +- {error:.3f}", flush=True)
    record = {
        "command": f"python scripts/gradient_lab.py variance --draws {arguments.draws}",
        "environment": environment(),
        "seconds": time.perf_counter() - started,
        "days": arguments.days,
        "scenarios": arguments.scenarios,
        "draws": arguments.draws,
        "rows": rows,
    }
    for path in write_files(arguments.results / "gradient_lab", "variance", record, render, figure):
        print(f"wrote {path}")
    return 0


def render(record: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Variance of the surrogate's gradient by timestep scheme",
        "",
        "![Variance by scheme](variance.png)",
        "",
        f"`{record['command']}`, {record['seconds']:.0f} s on one thread. Two-stage diffusion of the "
        f"power task, seed 0; {record['days']} days, {record['scenarios']} scenarios, fixed, with the "
        f"score weights of their decision; {record['draws']} redraws of timesteps and noise. Variance "
        "is the trace of the covariance of the gradient over all weights, in units of `uniform` at the "
        "same k, that is at the same number of network evaluations; its error is a jackknife's. "
        "Importance schemes first see 20 steps to fill their history of gradient norms. Every scheme "
        "is unbiased: the cosine of its mean with that of `uniform` is limited by the noise of both.",
        "",
        "| k | scheme | variance | variance / squared mean | cosine of means |",
        "|---:|---|---:|---:|---:|",
    ]
    for row in record["rows"]:
        lines.append(
            f"| {row['k']} | {row['scheme']} | {row['variance']:.3f} ± {row['error']:.3f} "
            f"| {row['relative_variance']:.2f} | {row['cosine_of_means']:.3f} |"
        )
    return "\n".join([*lines, ""])


def figure(record: dict[str, Any]) -> "Figure":
    """Variance of each scheme in units of uniform, a panel each k; logarithmic."""
    ks = list(dict.fromkeys(row["k"] for row in record["rows"]))
    made, axes = panels(1, len(ks), 3.2 + 3.0 * len(ks), 3.8, sharex=True, sharey=True)
    for axis, k in zip(axes[0], ks, strict=True):
        picked = [row for row in record["rows"] if row["k"] == k]
        for place, row in enumerate(picked):
            drawn_by_importance = "importance" in row["scheme"]
            axis.errorbar(
                row["variance"],
                place,
                xerr=row["error"],
                color=PALETTE[1 if drawn_by_importance else 0],
                marker="s" if drawn_by_importance else "o",
                capsize=2,
            )
        axis.axvline(1.0, color="0.5", linestyle=":", linewidth=1.0)
        axis.set_xscale("log")
        axis.set_xlabel("variance (uniform = 1)")
        axis.set_title(f"k = {k} timesteps a scenario", fontsize=10)
        axis.set_yticks(range(len(picked)), [row["scheme"] for row in picked], fontsize=8)
    axes[0, 0].set_ylabel("timesteps and noise")
    axes[0, 0].invert_yaxis()
    return made
