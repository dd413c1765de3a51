"""Table 1 as rows of cells, each with its text, the number it is sorted by, and its mark.

What a cell says is what :mod:`diffusion_dfl.suite.reporting.markdown` says.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from diffusion_dfl.suite.reporting.layout import HEADLINE, Column, base_of
from diffusion_dfl.suite.reporting.markdown import entry, shown_columns, spread, verdict
from diffusion_dfl.suite.reporting.own import OwnTable
from diffusion_dfl.suite.reporting.paper import ROWS, TABLE_1, Cell, Printed
from diffusion_dfl.suite.reporting.statistics import Estimate
from diffusion_dfl.suite.reporting.table1 import Table, ranks

T = TypeVar("T")

NONE = "–"
_MARKS = {1: "best", 2: "second"}


@dataclass(frozen=True)
class Entry:
    """A cell of a grid.

    Attributes:
        text: what it says.
        value: what it is sorted by; None for what has no number and comes last.
        mark: ``best``, ``second``, ``better``, ``worse``, ``missing`` or empty.
        beside: what the text is about, in small.
    """

    text: str
    value: float | None = None
    mark: str = ""
    beside: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a grid.

    Attributes:
        title: of its method or baseline.
        kind: ``method``, ``baseline`` or ``bound``.
        section: of the paper's table.
        place: directory of the runs it is a mean of; empty for none.
        entries: its cells.
    """

    title: str
    kind: str
    section: str
    place: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Grid:
    """A table that can be sorted.

    Attributes:
        heads: titles of its columns, that of the rows first.
        rows: in the paper's order.
    """

    heads: tuple[str, ...]
    rows: tuple[Row, ...]


def main_grid(table: Table, places: Mapping[Cell, str]) -> Grid:
    """Methods, plain baselines and bounds, in the columns of the Markdown table: the task first, and
    our numbers before the paper's, which is what a phone shows.

    Args:
        table: the numbers.
        places: (model, grad) -> directory of its runs.
    """
    printed, columns = shown_columns(table)
    best, best_printed = ranks(table, "mean"), ranks(table, "paper_mean")
    headline = table.estimates("method")
    rows = []
    for section, name, model, grad in ROWS:
        if name not in headline and not table.compare:
            continue
        paper: list[Entry] = []
        if table.compare:
            pair = TABLE_1[base_of(table.task)].get((model, grad), (None, None))
            paper = [
                _of_paper(pair[0]),
                _of_paper(pair[1], _MARKS.get(best_printed.get(name, 0))),
            ]
        if name in headline:
            ours = [_of_column(table, name, column, best) for column in columns]
            count = Entry(str(headline[name].count), headline[name].count)
        else:
            ours, count = [Entry("missing", None, "missing")] * len(columns), Entry("0", 0)
        place = places.get((model, grad), "")
        rows.append(Row(name, "method", section, place, (*_ordered(ours, paper), count)))
    for block in ("baseline", "bound"):
        for name, estimate in table.estimates(block).items():
            ours = [Entry(NONE)] * len(columns)
            ours[1] = Entry(spread(estimate, 3), estimate.mean)
            count = Entry(str(estimate.count), estimate.count)
            entries = _ordered(ours, [Entry(NONE)] * len(printed))
            rows.append(Row(name, block, "", "", (*entries, count)))
    titles = _ordered([column.title for column in columns], printed)
    return Grid(("Method", *titles, "Seeds"), tuple(rows))


def _ordered(ours: Sequence[T], paper: Sequence[T]) -> list[T]:
    """RMSE, task and more of ours, and RMSE and task of the paper or nothing, as the grid has them."""
    rmse, task, *more = ours
    return [task, *paper[1:], rmse, *paper[:1], *more]


def difference_grid(table: Table) -> Grid:
    """Paired differences to the best method that is not decision-focused and the best baseline."""
    blocks = []
    for block in ("against_own", "against_two_stage", "against_baseline"):
        found = table.block(block)
        others = dict(zip(found["name"], found["against"], strict=True))
        blocks.append((table.estimates(block), others))
    rows = []
    for section, name, _, _ in ROWS:
        entries: list[Entry] = []
        counts: list[int] = []
        for estimates, others in blocks:
            if name not in estimates:
                entries += [Entry(NONE), Entry(NONE)]
                continue
            estimate = estimates[name]
            difference = Entry(spread(estimate, 3), estimate.mean, beside=str(others[name]))
            entries += [difference, _interval(estimate, table)]
            counts.append(estimate.count)
        if counts:
            entries.append(Entry("/".join(dict.fromkeys(map(str, counts))), min(counts)))
            rows.append(Row(name, "method", section, "", tuple(entries)))
    heads = (
        "To the same model's two-stage fit",
        "To the best method not decision-focused",
        "To the best plain baseline",
    )
    titles = [title for head in heads for title in (head, "95 %")]
    return Grid(("Method", *titles, "Seeds"), tuple(rows))


def twin_grid(table: Table) -> Grid:
    """Methods beside their twins with decision weight 0."""
    sides = [table.estimates(block) for block in ("twin", "with_twin")]
    rows = [
        Row(
            name,
            "method",
            "",
            "",
            (
                *(Entry(spread(side[name], 3), side[name].mean) for side in sides),
                Entry(spread(difference, 3), difference.mean),
                _interval(difference, table),
                Entry(str(difference.count), difference.count),
            ),
        )
        for name, difference in table.estimates("against_twin").items()
    ]
    heads = ("Method", "Twin", "Decision-focused", "Difference", "95 %", "Seeds")
    return Grid(heads, tuple(rows))


def own_grid(table: OwnTable) -> Grid:
    """A table of the user's own runs."""
    rows = []
    for title, *texts in table.rows:
        is_plain = title.startswith("_")
        entries = tuple(Entry(text, _leading(text)) for text in texts)
        kind = "baseline" if is_plain else "method"
        rows.append(Row(title.strip("_") if is_plain else title, kind, "", "", entries))
    return Grid(table.heads, tuple(rows))


def _leading(text: str) -> float | None:
    """The number a text begins with."""
    try:
        return float(text.split(" ")[0])
    except ValueError:
        return None


def places_of(rows: Sequence[Mapping[Any, Any]]) -> dict[Cell, str]:
    """(model, grad) -> directory of its runs, from rows of the frame of a table's runs."""
    found: dict[Cell, str] = {}
    for row in rows:
        found.setdefault((row["model"], row["grad"]), row["path"].rpartition("/")[0])
    return found


def _of_paper(printed: Printed | None, mark: str | None = None) -> Entry:
    if printed is None:
        return Entry(NONE)
    # Sums over 24 hours are sorted among values an hour.
    return Entry(str(printed), printed.mean / printed.summed, mark or "")


def _of_column(table: Table, name: str, column: Column, places: Mapping[str, int]) -> Entry:
    metric = f"{column.metric}.0" if column.interval else column.metric
    estimate = table.estimates("method", metric).get(name)
    mark = _MARKS.get(places.get(name, 0), "") if column.metric == HEADLINE else ""
    value = None if estimate is None else estimate.mean
    return Entry(entry(table, name, column), value, mark)


def _interval(estimate: Estimate, table: Table) -> Entry:
    """Sorted by its middle, marked where it has no zero in it."""
    if math.isnan(estimate.low):
        return Entry(NONE)
    side = estimate.side() * (1 if table.higher_is_better else -1)
    mark = {1: "better", -1: "worse", 0: ""}[side]
    return Entry(verdict(estimate, table), (estimate.low + estimate.high) / 2, mark)
