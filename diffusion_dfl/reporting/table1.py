"""Table 1 in Markdown: the paper's value, ours, and how many seeds stand behind it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusion_dfl.reporting.collect import Record
from diffusion_dfl.reporting.paper import ROWS, TABLE_1

TASK_TITLES = {"power": "Power schedule"}


@dataclass(frozen=True)
class Selection:
    """Which records a table is about; they never mix.

    Attributes:
        task, scale, source: of every record.
        config_hashes: (model, grad) -> hash of the current preset; a record with another hash is
            stale and not averaged in. None takes any record that does not differ from its preset.
        differs: the overrides shared by all records of the table, e.g. the data source.
    """

    task: str
    scale: str
    source: str
    config_hashes: Mapping[tuple[str, str], str]


def select(
    records: Sequence[Record], wanted: Selection
) -> tuple[dict[tuple[str, str], list[Record]], int]:
    """Records of a table by cell, and how many of its cells' records were stale."""
    cells: dict[tuple[str, str], list[Record]] = {}
    stale = 0
    for record in records:
        identity = record.identity
        if (identity["task"], identity["scale"], identity["source"]) != (
            wanted.task,
            wanted.scale,
            wanted.source,
        ):
            continue
        if set(identity["differs"]) - {"data.source"}:
            continue  # a variant: an ablation, a twin, a search
        if identity["config_hash"] != wanted.config_hashes.get(record.cell):
            stale += 1
            continue
        cells.setdefault(record.cell, []).append(record)
    for found in cells.values():
        found.sort(key=lambda record: record.identity["seed"])
    return cells, stale


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error over seeds; the error of a single seed is NaN."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def render(
    cells: Mapping[tuple[str, str], Sequence[Record]], wanted: Selection, stale: int = 0
) -> str:
    """The table as Markdown."""
    compare = wanted.source == "real" and wanted.task in TABLE_1
    title = TASK_TITLES.get(wanted.task, wanted.task)
    lines = [f"## {title} ({wanted.source} data, scale {wanted.scale})", ""]
    header = ["Method"]
    header += ["RMSE, paper", "Task, paper"] if compare else []
    header += [
        "RMSE",
        "Task ↓",
        "Task, exact rule",
        "Task, M = large",
        "CRPS",
        "Coverage 90 %",
        "Seconds",
        "Seeds",
    ]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    ranking = sorted(
        (mean_and_error([r.summary["test"]["task"] for r in found])[0], cell)
        for cell, found in cells.items()
    )
    marks = {cell: mark for (_, cell), mark in zip(ranking, ("**", "_"), strict=False)}
    for _, name, model, grad in ROWS:
        cell = (model, grad)
        row = [name]
        if compare:
            row += [str(value) for value in TABLE_1[wanted.task].get(cell, ("–", "–"))]
        found = cells.get(cell, [])
        if found:
            mark = marks.get(cell, "")
            row += [
                _entry(found, "rmse_scenario", 4),
                f"{mark}{_entry(found, 'task', 3)}{mark}",
                _entry(found, "task_exact", 3),
                _entry(found, "task_at_500", 3),
                _entry(found, "crps", 4),
                _entry(found, "coverage_90", 3),
                f"{sum(r.summary['timing']['total'] for r in found) / len(found):.0f}",
                str(len(found)),
            ]
        else:
            row += ["missing"] * (len(header) - len(row) - 1) + ["0"]
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", *_notes(cells, compare, stale), ""]
    return "\n".join(lines)


def _entry(records: Sequence[Record], key: str, digits: int) -> str:
    values = [record.summary["test"].get(key) for record in records]
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        return "–"
    mean, error = mean_and_error(numbers)
    spread = "" if math.isnan(error) else f" ± {error:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def _notes(
    cells: Mapping[tuple[str, str], Sequence[Record]], compare: bool, stale: int
) -> list[str]:
    notes = [
        "Mean ± standard error over seeds; best task bold, second best italic. RMSE is over scenarios, "
        "days and hours in one definition for all rows. `Task` decides with the rule the method was "
        "trained with, `exact rule` with the unsmoothed sample program on the same scenarios, "
        "`M = large` with the trained rule on `evaluation.num_large` scenarios."
    ]
    if compare:
        notes.append(
            "The paper's power RMSE column mixes values an hour (two-stage rows) with sums over 24 "
            "hours (the others), and its protocol differs (docs/data.md)."
        )
    failures = sum(r.summary["test"]["solver_failures"] for found in cells.values() for r in found)
    diverged = sum(
        bool(r.summary["validation"]["diverged"]) for found in cells.values() for r in found
    )
    notes.append(f"Solver failures: {failures}. Diverged runs (best checkpoint kept): {diverged}.")
    sources = {r.identity["source_hash"] for found in cells.values() for r in found}
    if len(sources) > 1:
        notes.append(f"These records come from {len(sources)} versions of the source.")
    if stale:
        notes.append(f"{stale} records of an older preset are not counted.")
    return [line for note in notes for line in (note, "")][:-1]


def render_twins(records: Sequence[Record], wanted: Selection) -> str:
    """Decision-focused cells beside their twins with decision weight 0, over the seeds both have."""
    own, _ = select(records, wanted)
    twins: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        identity = record.identity
        same = (identity["task"], identity["scale"], identity["source"]) == (
            wanted.task,
            wanted.scale,
            wanted.source,
        )
        changed = {k: v for k, v in identity["differs"].items() if k != "data.source"}
        weight = changed.pop("grad.decision_weight", None)
        # A cell without a fit loss of its own needs one to have a twin.
        if same and weight == 0 and set(changed) <= {"grad.fit_weight"}:
            twins.setdefault(record.cell, {})[identity["seed"]] = record.summary["test"]["task"]
    if not twins:
        return ""
    lines = [
        "### Twins with decision weight 0 (same steps, same rule)",
        "",
        "| Method | Twin | Decision-focused | Difference | Seeds |",
        "|---|---|---|---|---|",
    ]
    for _, name, model, grad in ROWS:
        cell = (model, grad)
        if cell not in twins:
            continue
        mine = {r.identity["seed"]: r.summary["test"]["task"] for r in own.get(cell, [])}
        shared = sorted(mine.keys() & twins[cell].keys())
        if not shared:
            continue
        columns = []
        for values in (
            [twins[cell][s] for s in shared],
            [mine[s] for s in shared],
            [mine[s] - twins[cell][s] for s in shared],
        ):
            mean, error = mean_and_error(values)
            columns.append(f"{mean:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}"))
        lines.append(f"| {name} | {' | '.join(columns)} | {len(shared)} |")
    return "\n".join([*lines, ""])
