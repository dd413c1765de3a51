"""Everything the page shows, read from a results folder and the documents beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.collect import Collection, collect
from diffusion_dfl.suite.reporting.frame import differs_text, frame
from diffusion_dfl.suite.reporting.layout import LAYOUTS
from diffusion_dfl.suite.reporting.own import TRIED_OUT, OwnTable, own_runs, own_tables
from diffusion_dfl.suite.reporting.page.curves import Curve, average, by_stage
from diffusion_dfl.suite.reporting.page.document import Section, sections
from diffusion_dfl.suite.reporting.page.grids import places_of
from diffusion_dfl.suite.reporting.page.privacy import cleaned, redact
from diffusion_dfl.suite.reporting.page.runs import Run, list_runs
from diffusion_dfl.suite.reporting.page.studies import Study, studies
from diffusion_dfl.suite.reporting.paper import Cell
from diffusion_dfl.suite.reporting.selection import Selection, choose, selection
from diffusion_dfl.suite.reporting.status import Planned, State, state
from diffusion_dfl.suite.reporting.table1 import Table, build


@dataclass(frozen=True)
class Shown:
    """A table and where its runs are.

    Attributes:
        table: its numbers.
        places: (model, grad) -> directory of its runs below results/, ``published/laptop/...``.
    """

    table: Table
    places: Mapping[Cell, str]


@dataclass(frozen=True)
class CellCurves:
    """Learning curves of runs with the same configuration.

    Attributes:
        runs: positions in `Report.runs`, by seed.
        curves: one a stage.
    """

    runs: tuple[int, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        own: the user's runs, a table a task, scale and data source.
        tables: one a task, scale and data source that has records, those with runs of the user's
            first, then those of the paper; none of the scales that rank no methods.
        refused: records without a table: what they are of, and why.
        runs: every run, by path.
        curves: of every configuration that has any.
        damaged: runs with lines in metrics.jsonl that are no epoch: path, how many.
        states: what became of the planned runs.
        tuning: tuning runs that left the test days unseen.
        studies: of the gradient laboratory.
        audit: docs/audit.md; empty where it is not there.
    """

    own: Sequence[OwnTable]
    tables: Sequence[Shown]
    refused: Sequence[str]
    runs: Sequence[Run]
    curves: Sequence[CellCurves]
    damaged: Sequence[tuple[str, int]]
    states: Mapping[Planned, State]
    tuning: int
    studies: Sequence[Study]
    audit: Sequence[Section]

    @property
    def left_out(self) -> list[Run]:
        """Directories of runs that hold no usable record."""
        return [run for run in self.runs if run.state == "left out"]


def gather(results: Path, audit: Path, planned: Sequence[Planned]) -> Report:
    """Read everything.

    Args:
        results: with ``published/``, ``runs/`` and ``gradient_lab/``.
        audit: docs/audit.md.
        planned: runs whose state is told.

    Raises:
        UserError: the committed records are not what was published.
    """
    found = collect(results)
    left_out = [replace(one, reason=redact(one.reason)) for one in found.left_out]
    collection = replace(found, left_out=left_out)
    runs = frame(collection)
    selections, refused = _selections(runs)
    published = collection.archive.hashes
    states = {run: state(results, run, published) for run in planned}
    listed = list_runs(collection, runs, selections, states)
    curves, damaged = _curves(collection, listed)
    tables = [_shown(runs, wanted, collection) for wanted in selections]
    return Report(
        own=_own(runs),
        tables=sorted(tables, key=lambda one: not one.table.own),
        refused=refused,
        runs=listed,
        curves=curves,
        damaged=damaged,
        states=states,
        tuning=len(collection.tuning),
        studies=studies(results / "gradient_lab"),
        audit=_audit(audit),
    )


def _selections(runs: pd.DataFrame) -> tuple[list[Selection], list[str]]:
    """Tables of the records there are, and what has none because its task is not known here."""
    if runs.empty:
        return [], []
    ranked = runs[~runs["scale"].isin(TRIED_OUT)]
    kinds = {(row["task"], row["scale"], row["source"]) for row in ranked.to_dict("records")}
    order = list(LAYOUTS)
    found, refused = [], []
    for task, scale, source in sorted(
        kinds,
        key=lambda one: (
            one[1] != "laptop",
            order.index(one[0]) if one[0] in order else len(order),
            one,
        ),
    ):
        try:
            found.append(selection(runs, task, scale, source))
        except UserError as error:
            refused.append(f"{task}, scale {scale}, {source} data: {redact(str(error))}")
    return found, refused


def _shown(runs: pd.DataFrame, wanted: Selection, collection: Collection) -> Shown:
    chosen = choose(runs, wanted).runs
    rows = [
        {**row, "path": f"{'published' if row['published'] else 'runs'}/{row['path']}"}
        for row in chosen.to_dict("records")
    ]
    return Shown(build(runs, wanted, collection.left_out), places_of(rows))


def _own(runs: pd.DataFrame) -> list[OwnTable]:
    """The user's runs, without what must not leave the machine of what they change."""
    own = own_runs(runs)
    if own.empty:
        return []
    differs = [differs_text(cleaned(json.loads(text))) for text in own["differs"]]
    return own_tables(own.assign(differs=differs))


def _curves(
    collection: Collection, runs: Sequence[Run]
) -> tuple[list[CellCurves], list[tuple[str, int]]]:
    """Curves of the finished runs; only runs of one configuration are averaged."""
    cells: dict[tuple[str, str], list[int]] = {}
    for number, run in enumerate(runs):
        if run.values:
            key = (run.cell, str(run.values["config_hash"]))
            cells.setdefault(key, []).append(number)
    found, damaged = [], []
    for numbers in cells.values():
        epochs = []
        for number in numbers:
            root, _, path = runs[number].path.partition("/")
            told, bad = collection.epochs(path, root == "published")
            epochs.append(by_stage(told))
            if bad:
                damaged.append((runs[number].path, bad))
        curves = average(epochs)
        if curves:
            found.append(CellCurves(tuple(numbers), tuple(curves)))
    return found, damaged


def _audit(path: Path) -> list[Section]:
    try:
        return sections(path.read_text(encoding="utf-8"), 4)
    except (OSError, ValueError):
        return []
