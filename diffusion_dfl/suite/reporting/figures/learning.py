"""Figures of learning curves: 3, 8, 9."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusion_dfl.suite.reporting.figures.style import band, curve, legend, panels
from diffusion_dfl.suite.reporting.layout import HEADLINE

if TYPE_CHECKING:
    from diffusion_dfl.suite.reporting.figures.catalogue import FigureSource

_TASK, _MODEL = "power", "diffusion"
_SCORE = "validation_score"


def figure3(source: "FigureSource") -> Figure:
    """Validation cost by epoch: (a) scenarios M (what the paper says), (b) timesteps k (what the
    release varies), (c) how timesteps are drawn."""
    preset = source.cell(_TASK, _MODEL, "score")
    reparam = source.cell(_TASK, _MODEL, "reparam")

    def score(**changes: Any) -> pd.DataFrame:
        return source.cell(_TASK, _MODEL, "score", **changes)

    sweeps = {
        "(a) scenarios": {
            "score, M = 10": score(decision__num_scenarios=10),
            "score, M = 50": score(decision__num_scenarios=50),
            "score, M = 200 (preset)": preset,
            "reparam (preset)": reparam,
        },
        "(b) timesteps, M = 200": {
            "score, k = 1": score(model__num_elbo_timesteps=1),
            "score, k = 2 (preset)": preset,
            "score, k = 10": score(model__num_elbo_timesteps=10),
            "reparam (preset)": reparam,
        },
        "(c) scheme, k = 2": {
            "uniform": score(model__elbo_timesteps="uniform"),
            "importance": score(model__elbo_timesteps="importance"),
            "stratified (preset)": preset,
        },
    }
    figure, axes = panels(3)
    for axis, (title, curves) in zip(axes.flat, sweeps.items(), strict=True):
        # The same seeds in every curve of a panel, or their starts would differ.
        seeds = set.intersection(*(set(runs["seed"]) for runs in curves.values()))
        for index, (label, runs) in enumerate(curves.items()):
            _epochs(axis, source.epochs(runs[runs["seed"].isin(seeds)]), index, label)
        axis.set(title=f"{title}, {len(seeds)} seeds", xlabel="epoch")
        legend(axis)
    axes[0, 0].set_ylabel("validation cost a day")
    return figure


def figure8(source: "FigureSource") -> Figure:
    """Training and validation cost by epoch, mean and standard error over seeds; training alone where
    the epochs are given and every day before the test is trained on."""
    cells = source.cells(_TASK, [(_MODEL, grad) for grad in ("reparam", "score")])
    found = {grad: source.epochs(runs) for (_, grad), runs in cells.items()}
    validated = all(_SCORE in epochs for epochs in found.values())
    shown = [("decision_cost", "training, noisy contexts")]
    shown += [(_SCORE, "validation")] if validated else []
    figure, axes = panels(len(shown))
    for axis, (metric, title) in zip(axes.flat, shown, strict=True):
        for index, (grad, epochs) in enumerate(found.items()):
            label = f"{grad} (n = {epochs['seed'].nunique()})"
            _epochs(axis, epochs.dropna(subset=[metric]), index, label, metric)
        axis.set(title=title, xlabel="epoch")
        legend(axis)
    axes[0, 0].set_ylabel("cost a day")
    return figure


def figure9(source: "FigureSource") -> Figure:
    """Test cost and training time against the number of scenarios."""
    figure, axes = panels(2)
    counts = {"score": (10, 50, 100, 200), "reparam": (100,)}
    for index, (grad, values) in enumerate(counts.items()):
        found = []
        for count in values:
            found.append((count, source.cell(_TASK, _MODEL, grad, decision__num_scenarios=count)))
        for axis, column in zip(axes.flat, (HEADLINE, "timing.total"), strict=True):
            mean = [float(runs[column].mean()) for _, runs in found]
            error = [
                float(np.asarray(runs[column].sem())) if len(runs) > 1 else 0.0 for _, runs in found
            ]
            axis.errorbar(
                [count for count, _ in found], mean, yerr=error, capsize=2, label=grad,
                **curve(index),
            )  # fmt: skip
            for (count, runs), value in zip(found, mean, strict=True):
                axis.annotate(
                    f"n={len(runs)}", (count, value), textcoords="offset points",
                    xytext=(4, 5), fontsize=6,
                )  # fmt: skip
    axes[0, 0].set(title="(a) test cost", ylabel="cost a day", xlabel="scenarios M")
    axes[0, 1].set(title="(b) time of a run", ylabel="seconds", xlabel="scenarios M")
    for axis in axes.flat:
        axis.set_xscale("log")
        legend(axis)
    return figure


def _epochs(axis: Any, epochs: pd.DataFrame, index: int, label: str, metric: str = _SCORE) -> None:
    by_epoch = epochs.groupby("epoch")[metric]
    mean = by_epoch.mean()
    error = by_epoch.sem().fillna(0.0)
    band(axis, mean.index.to_list(), np.asarray(mean), np.asarray(error), index, label)
