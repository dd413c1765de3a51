"""Figures of studies: gradients (2, 6), memory (4), dimension (5)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusion_dfl.suite.reporting.figures.style import PALETTE, curve, legend, panels
from diffusion_dfl.suite.reporting.layout import HEADLINE
from diffusion_dfl.suite.reporting.statistics import estimate

if TYPE_CHECKING:
    from diffusion_dfl.suite.reporting.figures.catalogue import FigureSource

#: Numbers of assets of Figure 5; the last two go beyond the paper.
ASSETS = (10, 25, 50, 75, 100, 200, 392)

# More than the 284 tickers that two vendors agree on.
_ALL_TICKERS = 284

_DIMENSION_CELLS = (
    ("deterministic", "reparam"),
    ("gaussian", "two_stage"),
    ("gaussian", "reparam"),
    ("gaussian", "score"),
    ("diffusion", "two_stage"),
    ("diffusion", "score"),
    ("policy", "policy"),
)


def figure2(source: "FigureSource") -> Figure:
    """Cosine of the score gradient with reparameterization's, by dimension and by timesteps."""
    record = source.json("gradient_lab", "synthetic.json")
    figure, axes = panels(2)
    rows = pd.DataFrame(record["dimensions"])
    for index, (count, found) in enumerate(rows[rows["estimator"] == "score"].groupby("M")):
        axes[0, 0].errorbar(
            found["d"], found["one"], yerr=found["one_sd"], capsize=2, label=f"M = {count}",
            **curve(index),
        )  # fmt: skip
    axes[0, 0].set(title="(a) by dimension", xlabel="products d", ylabel="cosine, one estimate")
    epochs = pd.DataFrame(record["epochs"])
    largest = epochs["M"].max()
    for index, (k, found) in enumerate(epochs[epochs["M"] == largest].groupby("k", dropna=False)):
        label = "path score" if pd.isna(k) else f"k = {k:.0f}"
        axes[0, 1].plot(found["epoch"], found["one"], label=label, **curve(index))
    axes[0, 1].set(
        title=f"(b) in training, d = {record['settings']['followed_dimension']}, M = {largest}",
        xlabel="epoch",
    )
    for axis in axes.flat:
        axis.set_ylim(-0.2, 1.05)
        legend(axis)
    return figure


def figure4(source: "FigureSource") -> Figure:
    """Test cost against bytes saved for backward; and those bytes at the paper's sizes, computed."""
    figure, axes = panels(2, width=4.2)
    axis = axes[0, 0]
    grads = ("two_stage", "reparam", "score", "score_path")
    found = source.cells("power", [("diffusion", grad) for grad in grads])
    for index, ((_, grad), runs) in enumerate(found.items()):
        cost = estimate(runs[HEADLINE].tolist())
        held = float(runs["resources.saved_for_backward_bytes"].mean()) / 1e6
        style = {**curve(index), "linestyle": "none", "markersize": 7}
        axis.errorbar([held], [cost.mean], yerr=[cost.error], capsize=3, label=grad, **style)
    axis.set(
        title="(a) power, laptop scale, measured",
        xlabel="saved for backward, MB",
        ylabel="test cost a day",
        xscale="log",
    )
    legend(axis)
    record = source.json("benchmarks", "memory.json")
    sizes = record["sizes"]
    counts = [c for c in record["counts"] if c["num_scenarios"] in (None, 50)]
    bars: dict[str, float] = {}
    for count in counts:
        name = count["name"]
        if name == "score" and count["num_timesteps"] != 10:
            continue
        bars.setdefault(name, count["saved"] / 1e9)
    axis = axes[0, 1]
    places = np.arange(len(bars))
    axis.barh(places, list(bars.values()), color=PALETTE[0], hatch="//", edgecolor="white")
    axis.set_yticks(places, list(bars))
    axis.invert_yaxis()
    for place, value in zip(places, bars.values(), strict=True):
        axis.annotate(
            f"{value:.3g} GB",
            (value, place),
            textcoords="offset points",
            xytext=(3, -2),
            fontsize=7,
        )
    axis.set(
        title=f"(b) {sizes['layers']} x {sizes['width']}, T = {sizes['num_diffusion_steps']}, computed",
        xlabel="saved for backward, GB",
        xscale="log",
    )
    axis.set_xlim(right=max(bars.values()) * 12)
    return figure


def figure5(source: "FigureSource") -> Figure:
    """Same-day hindsight regret and mean daily return against the number of assets."""
    from diffusion_dfl.suite.reporting.figures.catalogue import MissingRuns

    figure, axes = panels(2, width=4.2)
    drawn = 0
    for index, (model, grad) in enumerate(_DIMENSION_CELLS):
        points: list[tuple[int, pd.DataFrame]] = []
        for count in ASSETS:
            changes: dict[str, Any] = {} if count == 50 else {"task__num_assets": count}
            if count > _ALL_TICKERS:
                changes["task__strict"] = False
            try:
                points.append((count, source.cell("portfolio", model, grad, **changes)))
            except MissingRuns:
                continue
        if len(points) < 3:
            continue
        drawn += 1
        for axis, metric in zip(axes.flat, ("test.hindsight_regret", HEADLINE), strict=True):
            # The same seeds at every size.
            seeds = set.intersection(*(set(runs["seed"]) for _, runs in points))
            values = [runs[runs["seed"].isin(seeds)][metric] for _, runs in points]
            mean = [float(value.mean()) for value in values]
            error = [float(np.asarray(value.sem())) if len(value) > 1 else 0.0 for value in values]
            axis.errorbar(
                [count for count, _ in points], mean, yerr=error, capsize=2,
                label=f"{model}/{grad} (n = {len(seeds)})", **curve(index),
            )  # fmt: skip
    if not drawn:
        raise MissingRuns(
            "its runs are not there; make them with `python train.py task=portfolio model=gaussian "
            "grad=two_stage,score task.num_assets=10,25,75,100,200 -m seed=0-2`"
        )
    axes[0, 0].set(title="(a) regret to the same day's best asset", ylabel="% a day")
    axes[0, 1].set(title="(b) mean daily return", ylabel="% a day")
    for axis in axes.flat:
        axis.set_xscale("log")
        axis.set_xticks(ASSETS, [str(count) for count in ASSETS])
        axis.minorticks_off()
        axis.set_xlabel("assets n")
    legend(axes[0, 0])
    return figure


def figure6(source: "FigureSource") -> Figure:
    """Cosine of the surrogate's gradient with the true one, by dimension and model error."""
    record = source.json("gradient_lab", "linear.json")
    rows = pd.DataFrame(record["cosines"])
    rows = rows[(rows["variance"] == "beta") & (rows["shape"] == rows["shape"].iloc[0])]
    lengths = sorted(rows["T"].unique())
    figure, axes = panels(len(lengths))
    for axis, length in zip(axes.flat, lengths, strict=True):
        for index, error in enumerate(sorted(rows["error"].unique())):
            found = rows[(rows["T"] == length) & (rows["error"] == error)].sort_values("d")
            axis.plot(found["d"], found["vlb"], label=f"vlb, error {error:.0%}", **curve(index))
            if error == 0:
                axis.plot(
                    found["d"], found["simple"], label="simple, error 0 %", color="0.4",
                    marker="x", linestyle=":",
                )  # fmt: skip
        axis.set(title=f"T = {length}", xlabel="dimension d", ylim=(0.3, 1.02))
        legend(axis, ncols=2, loc="lower right")
    axes[0, 0].set_ylabel("cosine with the true gradient")
    return figure
