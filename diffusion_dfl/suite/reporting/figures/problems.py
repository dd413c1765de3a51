"""Figures about the decision problems: 1, 7, 10, 11."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from diffusion_dfl.suite.reporting.figures.style import LINES, PALETTE, curve, legend, panels
from diffusion_dfl.suite.reporting.paper import ROWS

if TYPE_CHECKING:
    from diffusion_dfl.suite.reporting.figures.catalogue import FigureSource


def figure1(source: "FigureSource") -> Figure:
    """One product, cost exp(-y z): single scenarios decide at the bounds, their mean inside."""
    record = source.json("figures", "data", "figure1.json")
    orders = np.linspace(0.0, record["capacity"], 200)
    figure, axes = panels(3)
    for index, outcome in enumerate(record["outcomes"]):
        cost = np.exp(-outcome * orders)
        best = orders[int(cost.argmin())]
        style = {**curve(index), "marker": ""}
        axes[0, 0].plot(orders, cost, label=f"y = {outcome:.2g}", **style)
        axes[0, 0].plot([best], [cost.min()], marker="*", color=style["color"], ms=9)
    axes[0, 0].set(title="(a) one scenario: * at a bound", ylabel="cost exp(-y z)", yscale="log")
    true = np.asarray(record["true"])
    learned = np.asarray(record["learned"])
    for index, (name, sample) in enumerate((("true", true), ("diffusion", learned))):
        mean = np.exp(-sample[:, None] * orders).mean(0)
        axes[0, 1].plot(orders, mean, label=name, **{**curve(index), "marker": ""})
        best = int(mean.argmin())
        axes[0, 1].plot([orders[best]], [mean[best]], marker="*", color=PALETTE[index], ms=10)
    axes[0, 1].set(title="(b) mean over scenarios: * inside", ylim=(0.8, 2.0))
    for axis in axes.flat[:2]:
        axis.set_xlabel("decision z")
        legend(axis)
    bins = np.linspace(min(true.min(), learned.min()), max(true.max(), learned.max()), 50)
    axes[0, 2].hist(true, bins, density=True, color="0.8", label="true")
    axes[0, 2].hist(
        learned, bins, density=True, histtype="step", color=PALETTE[1], lw=1.4, label="diffusion"
    )
    axes[0, 2].set(title="(c) density", xlabel="outcome y", ylabel="density")
    legend(axes[0, 2])
    return figure


def figure7(source: "FigureSource") -> Figure:
    """Test cost by hour of the power task, mean over seeds."""
    figure, axes = panels(2, width=4.4)
    # The flow is beyond the paper, and an eighth curve beyond what a reader can tell apart; the point
    # forecast costs ten times as much as the rest.
    found = source.cells("power", [(row[2], row[3]) for row in ROWS if row[2] != "flow"])
    found.pop(("deterministic", "two_stage"), None)
    methods = [row for row in ROWS if (row[2], row[3]) in found]
    groups = {
        "(a) two-stage and policy": [r for r in methods if r[3] in ("two_stage", "policy")],
        "(b) decision-focused": [r for r in methods if r[3] not in ("two_stage", "policy")],
    }
    for axis, (title, rows) in zip(axes.flat, groups.items(), strict=True):
        for index, (_, name, model, grad) in enumerate(rows):
            runs = found[model, grad]
            hourly = [float(runs[f"test.hourly.{hour}"].mean()) for hour in range(24)]
            axis.plot(range(24), hourly, label=name, **curve(index))
        axis.set(title=title, xlabel="hour of the day", xticks=range(0, 24, 4))
        legend(axis)
    axes[0, 0].set_ylabel("test cost an hour")
    top = max(axis.get_ylim()[1] for axis in axes.flat)
    for axis in axes.flat:
        axis.set_ylim(0, top)
    return figure


def figure10(source: "FigureSource") -> Figure:
    """Regret, decisions and wins of deterministic, Gaussian and diffusion runs of inventory."""
    cells = (
        ("deterministic", "reparam"),
        ("gaussian", "reparam"),
        ("diffusion", "two_stage"),
        ("diffusion", "score"),
        ("diffusion", "reparam"),
        ("policy", "policy"),
    )
    found = source.cells("inventory", cells)
    figure, axes = panels(3, width=4.0)
    names = [f"{model}\n{grad}" for model, grad in found]
    optimum: Any = None
    for index, runs in enumerate(found.values()):
        for axis, metric in zip(axes.flat[:2], ("regret", "decision"), strict=True):
            levels = [float(runs[f"test.{metric}_quantiles.{i}"].mean()) for i in range(5)]
            _box(axis, index, levels)
        wins = runs["test.win_rate_saa"]
        error = wins.sem() if len(wins) > 1 else 0.0
        axes[0, 2].bar(
            index, wins.mean(), yerr=error, color=PALETTE[index], capsize=3,
            hatch=("", "//", "..", "xx", "\\\\", "++")[index], edgecolor="white",
        )  # fmt: skip
        optimum = [float(runs[f"test.optimum_quantiles.{i}"].mean()) for i in range(5)]
    _box(axes[0, 1], len(found), optimum)
    axes[0, 0].set(title="(a) regret of a row", ylabel="expected cost above the optimum")
    axes[0, 1].set(title="(b) decisions", ylabel="order z")
    axes[0, 2].set(title="(c) wins against one order", ylim=(0, 1))
    axes[0, 2].set_ylabel("share of rows")
    for axis in axes.flat:
        labels = [*names, "optimum"] if axis is axes[0, 1] else names
        axis.set_xticks(range(len(labels)), labels, fontsize=6, rotation=60)
    return figure


def _box(axis: Any, place: int, levels: list[float]) -> None:
    """5, 25, 50, 75 and 95 % as whiskers, box and line."""
    color = PALETTE[place % len(PALETTE)]
    axis.vlines(place, levels[0], levels[4], color=color, lw=1)
    axis.vlines(place, levels[1], levels[3], color=color, lw=9, alpha=0.45)
    axis.hlines(levels[2], place - 0.25, place + 0.25, color="black", lw=1.5)


def figure11(source: "FigureSource") -> Figure:
    """Predicted and true demand of some test contexts of inventory."""
    record = source.json("figures", "data", "figure11.json")
    contexts = record["contexts"]
    figure, axes = panels(len(contexts), width=3.2)
    for axis, context in zip(axes.flat, contexts, strict=True):
        grid = np.asarray(record["grid"])
        axis.fill_between(grid, context["true"], color="0.85", label="true density")
        bins = np.linspace(grid[0], grid[-1], 45)
        for index, (name, sample) in enumerate(context["samples"].items()):
            share = record["near_a_mode"][name]
            axis.hist(
                sample, bins, density=True, histtype="step", color=PALETTE[index],
                linestyle=LINES[index], lw=1.3, label=f"{name}, {share:.0%} near a mode",
            )  # fmt: skip
        axis.axvline(context["optimum"], color="black", lw=1, linestyle=":")
        axis.annotate(
            "z*", (context["optimum"], 0.97), xycoords=("data", "axes fraction"),
            xytext=(3, -4), textcoords="offset points", fontsize=7,
        )  # fmt: skip
        axis.set(title=context["name"], xlabel="demand")
    axes[0, 0].set_ylabel("density")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
