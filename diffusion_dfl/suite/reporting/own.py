"""The user's own runs, at whatever scale and of whatever task, model and grad: what tables begin with.

From the records alone: nothing is composed, since their YAML and code may be elsewhere. Runs stand
together where their configuration has one hash, seeds apart; nothing is compared with the paper.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from diffusion_dfl.suite.invocation import verb
from diffusion_dfl.suite.reporting.columns import aligned
from diffusion_dfl.suite.reporting.layout import HEADLINE, layout_of, plain_name
from diffusion_dfl.suite.reporting.paper import ROWS
from diffusion_dfl.suite.reporting.roles import RUN, SOURCE, STALE, TWIN, literal
from diffusion_dfl.suite.reporting.selection import Selection, default_source, kinds, of_table
from diffusion_dfl.suite.reporting.statistics import Estimate, estimate

_RMSE = "test.rmse_scenario"
_BASELINE = "test.baselines."
#: Scales whose runs show that all works; they are not published.
TRIED_OUT = ("demo", "smoke")

#: What runs of one line share.
CONFIGURATION = ["model", "grad", "differs", "config_hash"]

_TITLES = {(model, grad): title for _, title, model, grad in ROWS}

# Of what no table shows, how many kinds are named.
_MOST = 10


@dataclass(frozen=True)
class OwnTable:
    """A user's runs of one task, data source and scale.

    Attributes:
        task, source, scale: of its runs.
        count: how many there are.
        heads: titles of its columns: method, numbers with the headline's first, seeds.
        rows: a text a column; a line a configuration, then the plain baselines.
        best: the best headline number, and whose it is.
        higher_is_better: direction of the headline number.
    """

    task: str
    source: str
    scale: str
    count: int
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: tuple[str, str]
    higher_is_better: bool

    @property
    def title(self) -> str:
        return f"{layout_of(self.task).title} ({self.source} data, scale {self.scale})"


def own_runs(
    runs: pd.DataFrame, tasks: Sequence[str] | None = None, scale: str | None = None
) -> pd.DataFrame:
    """The runs that are no committed records.

    Args:
        runs: :func:`diffusion_dfl.suite.reporting.frame.frame`.
        tasks: of the runs; None for all.
        scale: of the runs; None for all.
    """
    if runs.empty:
        return runs
    wanted = ~runs["published"].astype(bool)
    if tasks is not None:
        wanted &= runs["task"].isin(tasks)
    if scale is not None:
        wanted &= runs["scale"] == scale
    return runs[wanted]


def own_tables(own: pd.DataFrame) -> list[OwnTable]:
    """A table a task, data source and scale of `own_runs`."""
    if own.empty:
        return []
    groups = own.groupby(["task", "scale", "source"], sort=True)
    return [_table(str(task), str(source), str(scale), g) for (task, scale, source), g in groups]


def render_own(tables: Sequence[OwnTable]) -> str:
    """Markdown under the heading Yours; empty for no runs."""
    if not tables:
        return ""
    lines = ["# Yours", ""]
    for table in tables:
        lines += [
            f"## {table.title}",
            "",
            _line(table.heads),
            "|---|" + "---:|" * (len(table.heads) - 1),
        ]
        lines += [_line(row) for row in table.rows]
        lines += ["", own_note(table), ""]
    return "\n".join(lines)


def own_in_columns(tables: Sequence[OwnTable]) -> str:
    """The same for a terminal; empty for no runs."""
    parts = [f"{table.title}\n\n{aligned(table.heads, table.rows)}" for table in tables]
    notes = dict.fromkeys(own_note(table).replace("`", "") for table in tables)
    return "\n\n".join(["Yours", *parts, *notes]) + "\n" if tables else ""


def own_note(table: OwnTable) -> str:
    """What a reader of the table must know."""
    better = "more" if table.higher_is_better else "less"
    note = (
        f"`Task` is the mean over the test rows, {better} is better; ± is the standard error over "
        "seeds. Runs of one line share every setting and the user's code."
    )
    if table.scale in TRIED_OUT:
        note += f" Scale {table.scale} is for trying out: it ranks no methods."
    return note


def beside(runs: pd.DataFrame, shown: Sequence[Selection], known: Sequence[str]) -> list[str]:
    """The user's runs of known tasks that tables leave out, with the command that shows each kind.

    Args:
        runs: :func:`diffusion_dfl.suite.reporting.frame.frame`.
        shown: the tables.
        known: tasks of this project.
    """
    own = own_runs(runs, known)
    if own.empty:
        return []
    standing = pd.Series("", index=own.index, dtype=object)
    for wanted in shown:
        found = of_table(runs, wanted)
        told = kinds(found, wanted)
        standing.update(told[told.index.intersection(own.index)])
    left = own[~standing.isin([RUN, TWIN])]
    old = int((left["role"] == STALE).sum())
    counts: dict[str, int] = {}
    for run in left[left["role"] != STALE].to_dict("records"):
        counts.setdefault(_showing(run, runs), 0)
        counts[_showing(run, runs)] += 1
    lines = [f"{count}: {command}" for command, count in counts.items()]
    if len(lines) > _MOST:
        lines[_MOST:] = [f"and {len(lines) - _MOST} kinds more"]
    if old:
        lines.append(f"{old}: of older presets, among yours alone")
    return lines


def method_of(run: pd.Series) -> str:
    """A run's method, with what it changes in its preset in brackets."""
    differs = json.loads(str(run["differs"]))
    changed = [f"{key}={value}" for key, value in differs.items() if key != SOURCE]
    changed += ["older preset"] if run["role"] == STALE else []
    cell = (str(run["model"]), str(run["grad"]))
    return _TITLES.get(cell, " ".join(cell)) + (f" ({', '.join(changed)})" if changed else "")


def _showing(run: Mapping[Any, Any], runs: pd.DataFrame) -> str:
    """The command of the table that a run is a row of."""
    words = ["--task", run["task"]]
    words += [] if run["scale"] == "laptop" else ["--scale", run["scale"]]
    words += [] if run["source"] == default_source(run["task"], runs) else ["--data", run["source"]]
    differs = json.loads(run["differs"])
    words += [f"{key}={literal(value)}" for key, value in differs.items() if key != SOURCE]
    return f"{verb('table')} {shlex.join(words)}"


def _table(task: str, source: str, scale: str, runs: pd.DataFrame) -> OwnTable:
    layout = layout_of(task)
    metrics = [HEADLINE, _RMSE, *(column.metric for column in layout.columns)]
    titles = ["Task", "RMSE", *(column.title for column in layout.columns)]
    present = [
        (metric, title)
        for metric, title in zip(metrics, titles, strict=True)
        if metric in runs and runs[metric].notna().any()
    ]
    higher = bool(runs["test.higher_is_better"].eq(True).any())
    rows, means = [], {}
    lines = [group for _, group in runs.groupby(CONFIGURATION, sort=True)]
    for group in sorted(lines, key=_place):
        method = method_of(group.iloc[0])
        found = [estimate(group[metric].astype(float).tolist()) for metric, _ in present]
        rows.append((method, *map(_shown, found), str(len(group))))
        means[found[0].mean] = (f"{found[0].mean:.3f}{layout.unit}", method)
    for column in sorted(name for name in runs.columns if name.startswith(_BASELINE)):
        # Runs of a seed share their baselines.
        values = runs.dropna(subset=[column]).groupby("seed")[column].mean()
        if len(values):
            name = f"_{plain_name(layout, column.removeprefix(_BASELINE))}_"
            numbers = [_shown(estimate(values.tolist())), *["–"] * (len(present) - 1)]
            rows.append((name, *numbers, str(len(values))))
    heads = ("Method", *(title for _, title in present), "Seeds")
    best = means[(max if higher else min)(means)]
    return OwnTable(task, source, scale, len(runs), heads, tuple(rows), best, higher)


def _place(group: pd.DataFrame) -> int:
    """Of a configuration: the paper's order, what is none of its methods last."""
    cell = (group["model"].iloc[0], group["grad"].iloc[0])
    return list(_TITLES).index(cell) if cell in _TITLES else len(_TITLES)


def _shown(value: Estimate) -> str:
    if not value.count:
        return "–"
    error = "" if math.isnan(value.error) else f" ± {value.error:.3f}"
    return f"{value.mean:.3f}{error}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
