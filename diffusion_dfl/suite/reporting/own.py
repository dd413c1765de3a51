"""Runs of a user's own tasks, models and grads: one plain table a task, from the records alone.

Nothing is composed, since their YAML and code may be elsewhere. Runs stand together where their
configuration has one hash, seeds apart; nothing is compared with the paper.
"""

import json
import math

import pandas as pd

from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.reporting.layout import HEADLINE, layout_of, plain_name
from diffusion_dfl.suite.reporting.statistics import Estimate, estimate

_RMSE = "test.rmse_scenario"
_BASELINE = "test.baselines."


def own_runs(runs: pd.DataFrame, known: list[str], scale: str, task: str | None) -> pd.DataFrame:
    """The runs that no other table shows.

    Args:
        runs: :func:`diffusion_dfl.suite.reporting.frame.frame`.
        known: tasks of this project.
        scale: of the runs.
        task: the one task asked for; None for all.
    """
    if runs.empty:
        return runs
    pairs = {(model, grad) for model, grads in CELLS.items() for grad in grads}
    cells = pd.Series(list(zip(runs["model"], runs["grad"], strict=True)), index=runs.index)
    shown = runs["task"].isin(known) & cells.isin(pairs)
    wanted = (runs["scale"] == scale) & ~shown
    if task is not None:
        wanted &= runs["task"] == task
    return runs[wanted]


def render_own(runs: pd.DataFrame) -> str:
    """A Markdown table a task and data source; empty for no runs."""
    if runs.empty:
        return ""
    return "\n".join(
        _table(str(task), str(source), group)
        for (task, source), group in runs.groupby(["task", "source"])
    )


def _table(task: str, source: str, runs: pd.DataFrame) -> str:
    layout = layout_of(task)
    metrics = [HEADLINE, _RMSE, *(column.metric for column in layout.columns)]
    titles = ["Task", "RMSE", *(column.title for column in layout.columns)]
    present = [
        (metric, title)
        for metric, title in zip(metrics, titles, strict=True)
        if metric in runs and runs[metric].notna().any()
    ]
    higher = bool(runs["test.higher_is_better"].eq(True).any())
    head = ["Model", "Grad", "Changed", "Seeds", *(title for _, title in present)]
    lines = [
        f"## {task} ({source} data, scale {runs['scale'].iloc[0]})",
        "",
        "| " + " | ".join(head) + " |",
        "|---|---|---|---:|" + "---:|" * len(present),
    ]
    for (model, grad, differs, _), group in runs.groupby(
        ["model", "grad", "differs", "config_hash"], sort=True
    ):
        changed = ", ".join(f"{key}={value}" for key, value in json.loads(str(differs)).items())
        cells = [str(model), str(grad), changed or "–", str(len(group))]
        cells += [_shown(estimate(group[metric].astype(float).tolist())) for metric, _ in present]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for column in sorted(name for name in runs.columns if name.startswith(_BASELINE)):
        # Runs of a seed share their baselines.
        values = runs.dropna(subset=[column]).groupby("seed")[column].mean()
        if len(values):
            name = plain_name(layout, column.removeprefix(_BASELINE))
            cells = [name, "plain", "–", str(len(values)), _shown(estimate(values.tolist()))]
            cells += ["–"] * (len(present) - 1)
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"`Task` is the mean over the test rows, {'more' if higher else 'less'} is better; ± is the "
        "standard error over seeds. Runs of one line share every setting and the user's code.",
        "",
    ]
    return "\n".join(lines)


def _shown(value: Estimate) -> str:
    if not value.count:
        return "–"
    error = "" if math.isnan(value.error) else f" ± {value.error:.3f}"
    return f"{value.mean:.3f}{error}"
