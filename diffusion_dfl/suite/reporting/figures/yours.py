"""The user's own runs beside plain baselines, a panel a task, data source and scale."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusion_dfl.suite.reporting.figures.axis import beyond, limits
from diffusion_dfl.suite.reporting.figures.style import PALETTE, panels
from diffusion_dfl.suite.reporting.layout import HEADLINE, layout_of, plain_name
from diffusion_dfl.suite.reporting.own import (
    CONFIGURATION,
    method_of,
    own_problems,
    own_runs,
    told_of_problem,
)
from diffusion_dfl.suite.reporting.statistics import estimate

if TYPE_CHECKING:
    from diffusion_dfl.suite.reporting.figures.catalogue import FigureSource

_BASELINE = "test.baselines."

# Of a task, and of a panel, those with most runs and the best.
_PANELS, _ROWS = 6, 16


def yours(source: "FigureSource") -> Figure:
    """Every run as a dot, the mean of a configuration as a bar, the best plain baseline as a line."""
    from diffusion_dfl.suite.reporting.figures.catalogue import MissingRuns

    own = own_runs(source.runs)
    if own.empty:
        raise MissingRuns(
            "there are no runs of yours; make one with "
            "`python train.py task=power model=gaussian grad=reparam scale=smoke`"
        )
    groups = sorted(own_problems(own), key=lambda runs: -len(runs))[:_PANELS]
    rows = [min(runs.groupby(CONFIGURATION, sort=False).ngroups, _ROWS) for runs in groups]
    heights = [0.9 + 0.28 * count for count in rows]
    figure, axes = panels(1, len(groups), 7.5, sum(heights) / len(heights), heights)
    for axis, runs in zip(axes.flat, groups, strict=True):
        task, *problem = (
            str(runs[name].iloc[0]) for name in ("task", "source", "scale", "problem")
        )
        axis.set_title(f"{layout_of(task).title}: {told_of_problem(*problem)}", fontsize=10)
        _panel(axis, task, runs)
    return figure


def _panel(axis: Any, task: str, runs: pd.DataFrame) -> None:
    layout = layout_of(task)
    higher = bool(runs["test.higher_is_better"].eq(True).any())
    lines = [group for _, group in runs.groupby(CONFIGURATION, sort=False)]
    lines.sort(key=lambda group: float(group[HEADLINE].mean()), reverse=higher)
    lines = lines[:_ROWS]
    plain = {
        column.removeprefix(_BASELINE): float(runs[column].mean())
        for column in runs.columns
        if column.startswith(_BASELINE) and "hindsight" not in column and runs[column].notna().any()
    }
    best = (max if higher else min)(plain, key=plain.__getitem__) if plain else None
    # From its smallest to its largest seed.
    means = [
        replace(
            estimate(group[HEADLINE].tolist()),
            low=float(group[HEADLINE].min()),
            high=float(group[HEADLINE].max()),
        )
        for group in lines
    ]
    axis.set_xlim(*limits(means, None if best is None else plain[best], logarithmic=False))
    for place, (group, mean) in enumerate(zip(lines, means, strict=True)):
        values = group[HEADLINE].to_numpy(float)
        axis.plot(
            values, np.full(len(values), place), "o", color=PALETTE[0], markersize=5, alpha=0.7
        )
        axis.plot([mean.mean], [place], "|", color=PALETTE[0], markersize=14, mew=2)
        beyond(axis, place, [("", mean.mean)])
    axis.set_yticks(range(len(lines)), [method_of(group.iloc[0]) for group in lines], fontsize=8)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    told = f"{layout.quantity}{layout.unit}, {'more' if higher else 'less'} is better"
    if best is not None:
        axis.axvline(plain[best], color="0.35", lw=0.9, ls="--", zorder=0)
        told += f"; dashed: {plain_name(layout, best)}"
    axis.set_xlabel(told, fontsize=8)
    axis.tick_params(labelsize=8)
