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
from diffusion_dfl.suite.reporting.columns import WIDTH, aligned, folded
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

# A method's name beyond which its changes stand below the table.
_LONG = 48

# Of what no table shows, how many kinds are named.
_MOST = 10


@dataclass(frozen=True)
class OwnTable:
    """A user's runs of one problem: task, data source, scale, and what they change in either.

    Attributes:
        task, source, scale: of its runs.
        problem: what all its runs change in task and data, ``task.shortage=5``; empty for nothing.
        count: how many there are.
        heads: titles of its columns: method, numbers with the headline's first, seeds.
        rows: a text a column; a line a configuration, then the plain baselines.
        best: the best headline number, and whose it is.
        higher_is_better: direction of the headline number.
    """

    task: str
    source: str
    scale: str
    problem: str
    count: int
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: tuple[str, str]
    higher_is_better: bool

    @property
    def title(self) -> str:
        return f"{layout_of(self.task).title} ({told_of_problem(self.source, self.scale, self.problem)})"


def told_of_problem(source: str, scale: str, problem: str) -> str:
    """What a title says behind the task's."""
    return ", ".join(filter(None, [f"{source} data, scale {scale}", problem]))


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
    """A table a problem of `own_runs`."""
    return [_table(group) for group in own_problems(own)]


def own_problems(own: pd.DataFrame) -> list[pd.DataFrame]:
    """Runs that solve one problem, so that they share plain baselines; trial scales last."""
    if own.empty:
        return []
    problem = own["differs"].map(_problem)
    groups = own.assign(problem=problem).groupby(["task", "scale", "source", "problem"], sort=True)
    return sorted((group for _, group in groups), key=lambda one: one["scale"].iloc[0] in TRIED_OUT)


def _problem(differs: str) -> str:
    changed = json.loads(differs)
    return ", ".join(f"{key}={changed[key]}" for key in sorted(changed) if _of_problem(key))


def _of_problem(key: str) -> bool:
    return key.startswith(("task.", "data.")) and key != SOURCE


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
    parts = [f"{table.title}\n\n{_in_columns(table)}" for table in tables]
    # The longest has all that the others say.
    note = max((own_note(table) for table in tables), key=len, default="").replace("`", "")
    return "\n\n".join(["Yours", *parts, folded(note)]) + "\n" if tables else ""


def _in_columns(table: OwnTable) -> str:
    """Its first columns, as many as fit; what a long name changes stands below."""
    rows: list[list[str]] = []
    below: list[str] = []
    for method, *cells in table.rows:
        name, bracket, changes = method.partition(" (")
        if bracket and len(method) > _LONG:
            below.append(f"[{len(below) + 1}] {changes.removesuffix(')')}")
            method = f"{name} [{len(below)}]"
        rows.append([method, *cells])
    for count in range(len(table.heads) - 1, 0, -1):
        heads, *lines = ([*row[:count], row[-1]] for row in [table.heads, *rows])
        text = aligned(heads, lines)
        if len(text.split("\n")[1]) <= WIDTH:  # The rule is as wide as the table.
            break
    return "\n".join([text, *below])


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
    """A run's method, with what it changes in its preset in brackets, but for task and data."""
    differs = json.loads(str(run["differs"]))
    changed = [
        f"{key}={value}" for key, value in differs.items() if key != SOURCE and not _of_problem(key)
    ]
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


def _table(runs: pd.DataFrame) -> OwnTable:
    task, source, scale, problem = (
        str(runs[name].iloc[0]) for name in ("task", "source", "scale", "problem")
    )
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
    return OwnTable(task, source, scale, problem, len(runs), heads, tuple(rows), best, higher)


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
