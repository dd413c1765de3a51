"""Table 1 in Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusion_dfl.suite.reporting.days import BLOCK
from diffusion_dfl.suite.reporting.layout import HEADLINE, Column, base_of, layout_of
from diffusion_dfl.suite.reporting.paper import COMPARISON, COMPARISON_RELEASED, ROWS, TABLE_1
from diffusion_dfl.suite.reporting.published import NOTE
from diffusion_dfl.suite.reporting.statistics import FEWEST, Estimate
from diffusion_dfl.suite.reporting.table1 import RMSE, Table, ranks

_NONE = "–"
_MARKS = {1: ("**", "**"), 2: ("<u>", "</u>")}
_TIME = Column("timing.total", "Seconds", 0)
_HELD = Column("resources.saved_for_backward_bytes", "Held for backward, MB", 1, unit=1e6)


def render(table: Table) -> str:
    """The table of a task: methods, plain baselines, differences, notes."""
    layout = layout_of(table.task)
    lines = [f"## {layout.title} ({table.source} data, scale {table.scale})", ""]
    lines += [*_main(table), ""]
    lines += [line for note in notes(table) for line in (note, "")]
    lines += _differences(table) + _twins(table)
    return "\n".join(lines).rstrip() + "\n"


def shown_columns(table: Table) -> tuple[list[str], list[Column]]:
    """Titles of the columns with the paper's numbers, none where there are none, and ours."""
    layout = layout_of(table.task)
    arrow = "↑" if table.higher_is_better else "↓"
    # The unit without its leading space, as a heading has it: "% a day".
    unit = f", {layout.unit.strip()}" if layout.unit else ""
    columns = [Column(RMSE, "RMSE", 4), Column(HEADLINE, f"Task{unit} {arrow}"), *layout.columns]
    printed = ["RMSE, paper", f"Task{unit}, paper"] if table.compare else []
    return printed, [*columns, _TIME, _HELD]


def _main(table: Table) -> list[str]:
    printed, columns = shown_columns(table)
    lines = table_head(["Method", *printed, *(column.title for column in columns), "Seeds"])
    marks = _marks(ranks(table, "mean"))
    paper_marks = _marks(ranks(table, "paper_mean"))
    headline = table.estimates("method")
    for _, name, model, grad in ROWS:
        if name not in headline and not table.compare:
            continue
        row = [name]
        if table.compare:
            rmse, task = TABLE_1[base_of(table.task)].get((model, grad), (None, None))
            row += [_NONE if rmse is None else str(rmse)]
            row += [_NONE if task is None else paper_marks(name, str(task))]
        if name not in headline:
            lines.append(table_line([*row, *["missing"] * len(columns), "0"]))
            continue
        for column in columns:
            text = entry(table, name, column)
            row.append(marks(name, text) if column.metric == HEADLINE else text)
        lines.append(table_line([*row, headline[name].count]))
    for block in ("baseline", "bound", "published"):
        for name, estimate in table.estimates(block).items():
            cells = [_NONE] * (len(printed) + len(columns))
            cells[len(printed) + 1] = spread(estimate, 3)
            seeds = _NONE if block == "published" else estimate.count
            lines.append(table_line([f"_{name}_", *cells, seeds]))
    return lines


def _marks(places: Mapping[str, int]) -> Callable[[str, str], str]:
    """Bold for the best, underlined for the second."""

    def mark(name: str, text: str) -> str:
        before, after = _MARKS.get(places.get(name, 0), ("", ""))
        return f"{before}{text}{after}"

    return mark


def entry(table: Table, name: str, column: Column) -> str:
    """Mean ± standard error of a metric, and its n where it is not the row's."""
    if column.interval:
        ends = [table.estimates("method", f"{column.metric}.{end}").get(name) for end in (0, 1)]
        texts = [number(end.mean, column.digits) for end in ends if end is not None]
        return f"[{', '.join(texts)}]" if len(texts) == 2 else _NONE
    estimate = table.estimates("method", column.metric).get(name)
    if estimate is None:
        return _NONE
    if column in (_TIME, _HELD):
        return number(estimate.mean / column.unit, column.digits)
    count = table.estimates("method")[name].count
    fewer = f" (n {estimate.count})" if estimate.count != count else ""
    return spread(estimate, column.digits) + fewer


def _differences(table: Table) -> list[str]:
    blocks = []
    for block in ("against_two_stage", "against_baseline"):
        rows = table.block(block)
        others = dict(zip(rows["name"], rows["against"], strict=True))
        blocks.append((table.estimates(block), others))
    names = [name for _, name, _, _ in ROWS if any(name in found for found, _ in blocks)]
    title = "### Paired differences over seeds"
    within = _within(table, "against_own", "To the same model's two-stage fit")
    within += _within(table, "against_reparam", "To the same model's reparam")
    if not names:
        return [title, "", *within] if within else []
    days = table.over_days("against_two_stage")
    head = ["Method", "To the best method not decision-focused", "95 %", *(_DAYS if days else [])]
    head += ["To the best plain baseline", "95 %", "Seeds"]
    lines = [title, "", *table_head(head)]
    for name in names:
        row, counts = [name], []
        for (found, others), wide in zip(blocks, (days, {}), strict=True):
            extra = [verdict(wide[name], table) if name in wide else _NONE] if wide else []
            if name not in found:
                row += [_NONE, _NONE, *extra]
                continue
            estimate = found[name]
            row += [f"{spread(estimate, 3)} ({others[name]})", verdict(estimate, table), *extra]
            counts.append(str(estimate.count))
        lines.append(table_line([*row, "/".join(dict.fromkeys(counts))]))
    return [*lines, "", difference_note(table), "", *within]


def _within(table: Table, block: str, title: str) -> list[str]:
    """What decision-focused training gains on the fit that it starts from, or a score on reparam."""
    differences, days = table.estimates(block), table.over_days(block)
    if not differences:
        return []
    lines = table_head(["Method", title, "95 %", *(_DAYS if days else []), "Seeds"])
    for name, difference in differences.items():
        row = [name, spread(difference, 3), verdict(difference, table)]
        if days:
            row.append(verdict(days[name], table) if name in days else _NONE)
        lines.append(table_line([*row, difference.count]))
    return [*lines, ""]


def difference_note(table: Table) -> str:
    """What the paired differences are, and which side of zero is the better one."""
    better = "Above" if table.higher_is_better else "Below"
    return (
        "Difference of the task, ours minus the other's on the same seeds, mean ± standard error; the "
        f"other is the one that is best on these seeds. {better} zero is better. {_BOOTSTRAP}"
        + (f" {_BOTH}" if table.over_days("against_two_stage") else "")
    )


TWIN_NOTE = "A gain that is not beyond the twin's is no effect of the decision loss."

_BOOTSTRAP = (
    f"95 %: bootstrap over seeds, no shorter than Student's interval, from {FEWEST} seeds on; "
    "where it includes zero no difference is claimed."
)

_DAYS = ["95 %, seeds and days"]
_BOTH = (
    "It holds for these test days. `Seeds and days` draws days again as well, in blocks of "
    f"{BLOCK}: what one may expect of other days like them."
)


def verdict(estimate: Estimate, table: Table) -> str:
    """The interval, and on which side of zero it lies."""
    if math.isnan(estimate.low):
        return _NONE
    interval = f"[{number(estimate.low, 3)}, {number(estimate.high, 3)}]"
    side = estimate.side() * (1 if table.higher_is_better else -1)
    return interval + {1: " better", -1: " worse", 0: ""}[side]


def _twins(table: Table) -> list[str]:
    differences = table.estimates("against_twin")
    if not differences:
        return []
    sides = [table.estimates(block) for block in ("twin", "with_twin")]
    days = table.over_days("against_twin")
    extra = _DAYS if days else []
    lines = [
        "### Twins with decision weight 0 (same steps, same rule)",
        "",
        *table_head(["Method", "Twin", "Decision-focused", "Difference", "95 %", *extra, "Seeds"]),
    ]
    for name, difference in differences.items():
        row = [name, *(spread(side[name], 3) for side in sides), spread(difference, 3)]
        row.append(verdict(difference, table))
        if days:
            row.append(verdict(days[name], table) if name in days else _NONE)
        lines.append(table_line([*row, difference.count]))
    return [*lines, "", TWIN_NOTE, ""]


def notes(table: Table) -> list[str]:
    """What a reader of the table must know, a paragraph each."""
    told = [
        "Mean ± standard error over seeds; best task bold, second best underlined; plain baselines "
        "and bounds in italics. RMSE is over scenarios, rows and coordinates, in one definition for "
        f"all methods. {layout_of(table.task).note}"
    ]
    if table.compare:
        told.append(COMPARISON.get(table.task, COMPARISON_RELEASED))
    if table.estimates("published"):
        told.append(NOTE)
    counted = f"Solver failures: {_total(table, 'test.solver_failures')}."
    counted += f" Rows without finite scenarios: {_total(table, 'test.nonfinite_rows')}."
    counted += f" Diverged runs (best checkpoint kept): {table.diverged}."
    told.append(counted)
    for raw in table.estimates("method", "test.task_raw").values():
        worth = f"{spread(raw, 3)}{layout_of(table.task).unit}"
        told.append(
            f"Before their projection on the feasible set the policy's decisions are worth {worth}."
        )
    if table.source_versions > 1:
        told.append(f"These records come from {table.source_versions} versions of the source.")
    if table.missing:
        absent = "; ".join(
            f"{name} {', '.join(map(str, seeds))}" for name, seeds in table.missing.items()
        )
        told.append(f"Missing seeds, of those that other methods have: {absent}.")
    if table.committed:
        told.append(
            "Committed records keep the presets they were published with; `make check-records` names "
            "those that are not today's."
        )
    if table.displaced:
        told.append(
            "Your runs of today's presets stand for the committed ones, which are of older presets: "
            f"{', '.join(table.displaced)}. Between the two nothing is compared: no row is marked best, "
            "and differences are to rows of the same age."
        )
    unrun = [name for _, name, *_ in ROWS if name not in table.estimates("method")]
    if unrun and not table.compare:
        told.append(
            f"Without runs: {', '.join(unrun)}; `diffusion-dfl status --missing task={table.task} "
            "seed=0-9` has the commands."
        )
    if table.stale:
        told.append(f"{table.stale} records of an older preset are not counted.")
    if table.left_out:
        told.append(
            f"{len(table.left_out)} runs are no usable record and not counted: "
            + "; ".join(str(run).rstrip(".") for run in table.left_out)
            + "."
        )
    if table.mixed:
        told.append(
            "Made by several versions of the source that compute otherwise (accept_source_change=true): "
            f"{', '.join(table.mixed)}."
        )
    if table.disagreeing:
        told.append(
            f"Runs of the same seed disagree on {', '.join(table.disagreeing)}: their data or their "
            "source differ."
        )
    return told


def _total(table: Table, metric: str) -> int:
    found = table.estimates("method", metric).values()
    return round(sum(estimate.mean * estimate.count for estimate in found))


def spread(estimate: Estimate, digits: int) -> str:
    """``mean ± error``; the mean alone of one value."""
    error = "" if math.isnan(estimate.error) else f" ± {number(estimate.error, digits)}"
    return number(estimate.mean, digits) + error


def number(value: float, digits: int) -> str:
    """Fixed digits, for numbers too large for them three significant ones."""
    # "z": no minus before a zero.
    return f"{value:z.{digits}f}" if abs(value) < 1e5 else f"{value:.3g}"


def table_head(titles: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [table_line(titles), "|" + "---|" * len(titles)]


def table_line(cells: Sequence[Any]) -> str:
    """A line of a table; cells are shown as they are."""
    return "| " + " | ".join(map(str, cells)) + " |"
