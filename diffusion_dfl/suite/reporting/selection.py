"""Which runs a table is about: those of its rows, their twins, and no others."""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.config.compose import NEUTRAL
from diffusion_dfl.suite.config.identities import identity_of
from diffusion_dfl.suite.places import CONFIG_DIRECTORY
from diffusion_dfl.suite.reporting.layout import LAYOUTS, base_of
from diffusion_dfl.suite.reporting.paper import TABLE_1, Cell
from diffusion_dfl.suite.reporting.roles import (
    RUN,
    SOURCE,
    STALE,
    TWIN,
    TWIN_KEYS,
    changes_of,
    is_twin,
)

#: What a run is to a table that is neither of its rows nor their twins: an ablation, a search.
OTHER = "other"

# Columns of the frame that say what a run is to a table.
_DECIDING = ["model", "grad", "role", "differs", "config"]


@dataclass(frozen=True)
class Selection:
    """What a table is about; it never mixes tasks, scales, sources or presets.

    Attributes:
        task, scale, source: of every run.
        changes: what all its runs change in their presets, beside the source.
        compare: whether the paper prints numbers to compare with.
    """

    task: str
    scale: str
    source: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    compare: bool = False


@dataclass(frozen=True)
class Chosen:
    """Runs of a table.

    Attributes:
        runs: those of its rows; all of a row are of one configuration.
        twins: the same with decision weight 0.
        stale: how many were made with an older preset.
        displaced: cells in which the user's runs of today's preset stand for the published ones.
    """

    runs: pd.DataFrame
    twins: pd.DataFrame
    stale: int
    displaced: Sequence[Cell]


def choices(group: str) -> list[str]:
    """Names of a configuration group, tasks in the order of the paper."""
    names = sorted(path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml"))
    order = list(LAYOUTS)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def default_source(task: str, runs: pd.DataFrame | None = None) -> str:
    """The data source a task uses where none is named: that of the runs which name none, or, without
    any, today's."""
    if runs is not None and len(runs):
        unnamed = runs[
            (runs["task"] == task) & ~runs["differs"].str.contains(f'"{SOURCE}"', regex=False)
        ]
        for found in (unnamed[unnamed["published"]], unnamed):
            if len(found):
                return str(found["source"].iloc[0])
    return identity_of((f"task={task}",)).source


def selection(
    runs: pd.DataFrame,
    task: str,
    scale: str,
    source: str | None = None,
    overrides: Sequence[str] = (),
) -> Selection:
    """The table of a task.

    Args:
        runs: :func:`diffusion_dfl.suite.reporting.frame.frame` of everything there is.
        task, scale: as on the command line.
        source: data source; None for the task's default.
        overrides: further ``key=value`` that all runs of the table share.

    Raises:
        UserError: there is no such task.
    """
    if task not in choices("task"):
        raise UserError(f"there is no task {task}; there are {', '.join(choices('task'))}")
    default = default_source(task, runs)
    changes = changes_of(overrides) if overrides else {}
    chosen = source or default
    compare = _printed(task) and chosen == default and not changes
    return Selection(task, scale, chosen, changes, compare)


def _printed(task: str) -> bool:
    """Whether the paper prints numbers that belong beside a task's."""
    return task in TABLE_1 or (task.endswith("_released") and base_of(task) in TABLE_1)


def of_table(runs: pd.DataFrame, wanted: Selection) -> pd.DataFrame:
    """Runs of the table's task, scale and source, whatever their preset."""
    if runs.empty:
        return runs
    same = (
        (runs["task"] == wanted.task)
        & (runs["scale"] == wanted.scale)
        & (runs["source"] == wanted.source)
    )
    return runs[same]


def choose(runs: pd.DataFrame, wanted: Selection) -> Chosen:
    """Runs of the table, its twins, and how many of either are of an older preset.

    Args:
        runs: :func:`diffusion_dfl.suite.reporting.frame.frame`.
        wanted: the table.
    """
    found = of_table(runs, wanted)
    if found.empty:
        return Chosen(found, found, 0, ())
    kind = kinds(found, wanted)
    rows, stale = found[kind == RUN], found[kind == STALE]
    displaced = _cells(rows[~rows["published"]]) & _cells(stale[stale["published"]])
    return Chosen(rows, _one_twin(found[kind == TWIN]), len(stale), sorted(displaced))


def _cells(runs: pd.DataFrame) -> set[Cell]:
    return set(zip(runs["model"], runs["grad"], strict=True))


def kinds(found: pd.DataFrame, wanted: Selection) -> pd.Series:
    """What every run of the table's task is to it: ``run``, ``twin``, ``stale`` or ``other``.

    A row is of one configuration. Where a user has made runs of another one, of today's preset, they
    are the row.
    """
    if found.empty:
        return pd.Series(dtype=object)
    told = [_kind(run, wanted) for run in found[_DECIDING].to_dict("records")]
    kind = pd.Series(told, index=found.index, dtype=object)
    for _, cell in found[kind.isin([RUN, TWIN])].groupby(["model", "grad"]):
        row = cell[kind[cell.index] == RUN]
        if row.empty:
            continue
        current = row[row["config_hash"] == _current(row)]
        kind[row.index.difference(current.index)] = STALE
        twins = cell[kind[cell.index] == TWIN]
        kind[twins.index[twins["preset"] != current["preset"].iloc[0]]] = STALE
    return kind


def _current(row: pd.DataFrame) -> str:
    """Configuration of a row: the user's, where it is another than the published one; of several that
    with most seeds."""
    published = set(row.loc[row["published"], "config_hash"])
    own = row[~row["config_hash"].isin(published)]
    sizes = (own if len(own) else row).groupby("config_hash").size().sort_index()
    return str(sizes.idxmax())


def _one_twin(twins: pd.DataFrame) -> pd.DataFrame:
    """One set of twins a cell: that with most seeds, of those the first by what it changes.

    Twins that differ in the weight of the fit are different runs; pairing a cell with both would count
    its seeds twice.
    """
    if twins.empty:
        return twins
    kept = []
    for _, cell in twins.groupby(["model", "grad"], sort=False):
        sizes = cell.groupby("differs").size().sort_index()
        kept.append(cell[cell["differs"] == sizes.idxmax()])
    return pd.concat(kept)


def _kind(run: Mapping[Any, Any], wanted: Selection) -> str:
    if run["grad"] not in CELLS.get(run["model"], ()) or not run["role"]:
        return OTHER
    differs = json.loads(run["differs"])
    if not changes_alone(differs, run["config"], wanted.changes, TWIN_KEYS):
        return OTHER
    keys = differs.keys() - {SOURCE} - wanted.changes.keys()
    if keys and not is_twin(differs):
        return OTHER
    return STALE if run["role"] == STALE else TWIN if keys else RUN


def changes_alone(
    differs: Mapping[str, Any],
    config: Mapping[str, Any],
    changes: Mapping[str, Any],
    beside: Set[str] = frozenset(),
) -> bool:
    """Whether a run has these changes, be they its preset's own values, and no others.

    Args:
        differs: what it changes in its preset.
        config: key -> value of its configuration.
        changes: key -> value.
        beside: keys that may be changed too.
    """
    if differs.keys() - {SOURCE} - changes.keys() - beside:
        return False
    return all(
        differs.get(key, config.get(key, NEUTRAL.get(key))) == value
        for key, value in changes.items()
    )


def of_cell(
    runs: pd.DataFrame,
    wanted: Selection,
    cell: Cell,
    changes: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> pd.DataFrame:
    """Runs of a cell of a table with further changes in its preset; a row a seed.

    Args:
        runs: :func:`diffusion_dfl.suite.reporting.frame.frame`.
        wanted: the table.
        cell: model and grad.
        changes: key -> value; values that are the preset's own give the table's row.
        preset: hash of the preset that is changed; None for that of the table's row.
    """
    found = of_table(runs, wanted)
    if found.empty:
        return found
    found = found[(found["model"] == cell[0]) & (found["grad"] == cell[1])]
    row = found[kinds(found, wanted) == RUN]
    if preset is None and len(row):
        preset = row["preset"].iloc[0]
    changed = {**wanted.changes, **(changes or {})}
    same = [
        run["role"] not in ("", STALE)
        and changes_alone(json.loads(run["differs"]), run["config"], changed)
        for run in found[_DECIDING].to_dict("records")
    ]
    found = found[pd.Series(same, index=found.index, dtype=bool)]
    if preset is not None:
        found = found[found["preset"] == preset]
    elif len(found):
        found = found[found["config_hash"] == _current(found)]
    return found.sort_values("seed")
