"""Which runs a table is about: those of the current presets, their twins, and no others."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from diffusion_dfl.config.arguments import CELLS
from diffusion_dfl.config.compose import CONFIG_DIRECTORY
from diffusion_dfl.config.identities import identity_of
from diffusion_dfl.errors import UserError
from diffusion_dfl.reporting.frame import differs_text
from diffusion_dfl.reporting.layout import LAYOUTS, base_of
from diffusion_dfl.reporting.paper import TABLE_1, Cell

# What a twin changes. A cell without a fit loss of its own needs one to have a twin.
_TWIN_WEIGHT, _TWIN_KEYS = "grad.decision_weight", {"grad.decision_weight", "grad.fit_weight"}


@dataclass(frozen=True)
class Preset:
    """What a current run of a cell looks like.

    Attributes:
        config_hash: of its configuration.
        differs: what it changes: nothing but the data source and the overrides of the whole table.
    """

    config_hash: str
    differs: Mapping[str, Any]


@dataclass(frozen=True)
class Selection:
    """What a table is about; it never mixes tasks, scales, sources or presets.

    Attributes:
        task, scale, source: of every run.
        presets: (model, grad) -> preset.
        current_hash: cell, changes -> hash of that configuration as it would be run today; None
            where it no longer composes.
        compare: whether the paper prints numbers to compare with.
    """

    task: str
    scale: str
    source: str
    presets: Mapping[Cell, Preset]
    current_hash: Callable[[Cell, Mapping[str, Any]], str | None]
    compare: bool = False


@dataclass(frozen=True)
class Chosen:
    """Runs of a table.

    Attributes:
        runs: those of the current presets.
        twins: the same with decision weight 0.
        stale: how many were made with an older preset.
    """

    runs: pd.DataFrame
    twins: pd.DataFrame
    stale: int


def choices(group: str) -> list[str]:
    """Names of a configuration group, tasks in the order of the paper."""
    names = sorted(path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml"))
    order = list(LAYOUTS)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def default_source(task: str) -> str:
    """The data source a task uses where none is named."""
    return identity_of((f"task={task}",)).source


def selection(
    task: str, scale: str, source: str | None = None, overrides: Sequence[str] = ()
) -> Selection:
    """The table of a task.

    Args:
        task, scale: as on the command line.
        source: data source; None for the task's default.
        overrides: further ``key=value`` that all runs of the table share.

    Raises:
        UserError, HydraException: an override that no run would take.
    """
    default = default_source(task)
    chosen = source or default
    common = [f"task={task}", f"scale={scale}", *overrides]
    if chosen != default:
        common.insert(2, f"data={chosen}")

    @cache
    def composed(cell: Cell, changes: tuple[str, ...]) -> Preset:
        identity = identity_of((*common, f"model={cell[0]}", f"grad={cell[1]}", *changes))
        return Preset(identity.config_hash, identity.differs)

    def current_hash(cell: Cell, differs: Mapping[str, Any]) -> str | None:
        known = presets[cell].differs
        changes = [f"{key}={literal(value)}" for key, value in differs.items() if key not in known]
        try:
            return composed(cell, tuple(changes)).config_hash
        except (UserError, HydraException, OmegaConfBaseException):
            return None

    presets = {
        (model, grad): composed((model, grad), ())
        for model, grads in CELLS.items()
        for grad in grads
    }
    name = identity_of(tuple(common)).task
    return Selection(
        task=name,
        scale=scale,
        source=chosen,
        presets=presets,
        current_hash=current_hash,
        compare=_printed(name) and chosen == default and not overrides,
    )


def _printed(task: str) -> bool:
    """Whether the paper prints numbers that belong beside a task's."""
    return task in TABLE_1 or (task.endswith("_released") and base_of(task) in TABLE_1)


def literal(value: Any) -> str:
    """A JSON value in the grammar of Hydra's overrides."""
    if isinstance(value, str):
        return QuotedString(text=value, quote=Quote.single).with_quotes()
    return json.dumps(value)


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
    """Runs of the table, its twins, and how many of either were stale.

    Args:
        runs: :func:`diffusion_dfl.reporting.frame.frame`.
        wanted: the table.
    """
    found = of_table(runs, wanted)
    kind = kinds(found, wanted)
    twins = _one_twin(found[kind == "twin"])
    return Chosen(found[kind == "run"], twins, int((kind == "stale").sum()))


def kinds(found: pd.DataFrame, wanted: Selection) -> pd.Series:
    """What every run of the table's task is to it: ``run``, ``twin``, ``stale`` or ``other``."""
    told = [_kind(run, wanted) for run in found.to_dict("records")]
    return pd.Series(told, index=found.index, dtype=object)


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


def is_twin(differs: Mapping[str, Any]) -> bool:
    """Whether these changes make a run the twin with decision weight 0 of another."""
    return differs.get(_TWIN_WEIGHT) == 0


def _kind(run: Mapping[Any, Any], wanted: Selection) -> str:
    cell = (run["model"], run["grad"])
    preset = wanted.presets.get(cell)
    if preset is None:
        return "other"
    differs = json.loads(run["differs"])
    if differs_text(differs) == differs_text(dict(preset.differs)):
        return "run" if run["config_hash"] == preset.config_hash else "stale"
    rest = {key: value for key, value in differs.items() if key not in _TWIN_KEYS}
    if not is_twin(differs) or differs_text(rest) != differs_text(dict(preset.differs)):
        return "other"  # an ablation, a search
    return "twin" if run["config_hash"] == wanted.current_hash(cell, differs) else "stale"
