"""Table 1 as numbers: the paper's, ours, plain baselines, and paired differences.

What is rendered (:mod:`diffusion_dfl.suite.reporting.markdown`) or written as CSV comes from one long frame,
`Table.numbers`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from diffusion_dfl.suite.reporting.collect import Collection, LeftOut
from diffusion_dfl.suite.reporting.differences import cell_runs, differences, values_by_seed
from diffusion_dfl.suite.reporting.layout import HEADLINE, base_of, layout_of, plain_name
from diffusion_dfl.suite.reporting.paper import ROWS, TABLE_1
from diffusion_dfl.suite.reporting.published import published_of
from diffusion_dfl.suite.reporting.selection import Selection, choose, of_table
from diffusion_dfl.suite.reporting.statistics import Estimate, estimate

RMSE = "test.rmse_scenario"

_TOLD = ("test.", "timing.", "resources.", "validation.task")

# Lists of numbers stay out of the table, but for the ends of an interval; so do baselines, which
# have rows of their own.
_LEFT_OUT = re.compile(r"test\.baselines\.|(?<!interval_95)\.\d+$")


@dataclass(frozen=True)
class Table:
    """A task's table.

    Attributes:
        task, scale, source: of all its runs.
        compare: whether the paper's numbers stand beside ours.
        higher_is_better: direction of the headline number.
        numbers: long frame with the columns ``block``, ``section``, ``name``, ``model``, ``grad``,
            ``against``, ``metric``, ``paper_mean``, ``paper_error``, ``mean``, ``error``, ``low``,
            ``high``, ``count``. Blocks: ``method`` (every metric), ``baseline``, ``bound`` and
            ``published`` (the headline number), the paired differences in it, ``against_two_stage`` (the best method
            that is not decision-focused), ``against_own`` (the same model's two-stage fit),
            ``against_reparam`` (of a score, the same model's pathwise gradient),
            ``against_baseline``, ``against_twin``, and the two sides of the last, ``with_twin`` and
            ``twin``, over the seeds both have. ``low`` and ``high`` are the 95 % bootstrap interval
            over seeds, ``count`` the seeds; ``days_low`` and ``days_high`` of a difference between
            methods that over seeds and test days (:mod:`diffusion_dfl.suite.reporting.days`).
        seeds: of all runs together.
        missing: name of a row with runs -> seeds that other rows have and it has not.
        stale: runs of an older preset, not counted.
        committed: whether it shows committed records.
        own: how many of the user's runs stand in it.
        displaced: rows that are the user's runs of today's preset, in place of published ones.
        left_out: runs of this task and scale that are no usable record.
        diverged: runs that diverged and kept their best checkpoint.
        source_versions: of how many versions of the source the runs are.
        disagreeing: baselines that differ between runs of the same seed.
        mixed: runs that versions of the source made together that compute otherwise.
    """

    task: str
    scale: str
    source: str
    compare: bool
    higher_is_better: bool
    numbers: pd.DataFrame
    seeds: tuple[int, ...]
    missing: Mapping[str, Sequence[int]]
    stale: int
    committed: bool
    own: int
    displaced: Sequence[str]
    left_out: Sequence[LeftOut]
    diverged: int
    source_versions: int
    disagreeing: Sequence[str]
    mixed: Sequence[str]

    @cached_property
    def _groups(self) -> dict[tuple[str, str], pd.DataFrame]:
        return {
            (str(block), str(metric)): rows
            for (block, metric), rows in self.numbers.groupby(["block", "metric"], sort=False)
        }

    def block(self, name: str) -> pd.DataFrame:
        """Rows of one block."""
        return self.numbers[self.numbers["block"] == name]

    def over_days(self, block: str) -> dict[str, Estimate]:
        """Like :meth:`estimates` of differences, with the interval over seeds and days; those only
        that have one."""
        rows = self.block(block).dropna(subset=["days_low"])
        columns = [
            rows[name] for name in ("name", "mean", "error", "days_low", "days_high", "count")
        ]
        return {
            str(name): Estimate(mean, error, low, high, int(count))
            for name, mean, error, low, high, count in zip(*columns, strict=True)
        }

    def estimates(self, block: str, metric: str = HEADLINE) -> dict[str, Estimate]:
        """Name -> estimate of the rows of a block that have any value of the metric."""
        rows = self._groups.get((block, metric), self.numbers[:0])
        rows = rows[rows["count"] > 0]
        columns = [rows[name] for name in ("name", "mean", "error", "low", "high", "count")]
        return {
            str(name): Estimate(mean, error, low, high, int(count))
            for name, mean, error, low, high, count in zip(*columns, strict=True)
        }


def build(
    runs: pd.DataFrame,
    wanted: Selection,
    left_out: Sequence[LeftOut] = (),
    collection: Collection | None = None,
) -> Table:
    """The table of a task.

    Args:
        runs: :func:`diffusion_dfl.suite.reporting.frame.frame` of everything there is.
        wanted: which of them the table is about.
        left_out: runs that are no usable record, of any task.
        collection: what ``runs`` are the frame of, for intervals over days; None for none.
    """
    chosen = choose(runs, wanted)
    directions = of_table(runs, wanted).get("test.higher_is_better", pd.Series(dtype=object))
    higher = bool(directions.dropna().eq(True).any())
    baselines, disagreeing = _baselines(chosen.runs, wanted.task)
    baselines |= _models(chosen.runs, wanted.task)
    rows = [
        *_methods(chosen.runs, wanted),
        *_plain("baseline", baselines),
        *_plain("bound", _bounds(chosen.runs, wanted.task)),
        *_plain("published", _published(chosen.runs, wanted.task)),
        *differences(chosen, baselines, higher, collection),
    ]
    columns = ["block", "section", "name", "model", "grad", "against", "metric"]
    columns += ["paper_mean", "paper_error", "mean", "error", "low", "high", "count"]
    columns += ["days_low", "days_high"]
    seeds = _seeds(chosen.runs)
    missing = {}
    for _, name, model, grad in ROWS:
        own = _seeds(cell_runs(chosen.runs, model, grad))
        if own and len(own) < len(seeds):
            missing[name] = sorted(set(seeds) - set(own))
    return Table(
        task=wanted.task,
        scale=wanted.scale,
        source=wanted.source,
        compare=wanted.compare,
        higher_is_better=higher,
        numbers=pd.DataFrame(rows, columns=columns),
        seeds=seeds,
        missing=missing,
        stale=chosen.stale,
        committed=bool(len(chosen.runs)) and bool(chosen.runs["published"].any()),
        own=sum(
            int((~found["published"].astype(bool)).sum())
            for found in (chosen.runs, chosen.twins)
            if len(found)
        ),
        displaced=[name for _, name, *cell in ROWS if tuple(cell) in chosen.displaced],
        left_out=[run for run in left_out if run.concerns(wanted.task, wanted.scale)],
        diverged=int(
            chosen.runs.get("validation.diverged", pd.Series(dtype=object)).eq(True).sum()
        ),
        source_versions=chosen.runs["source_hash"].nunique() if len(chosen.runs) else 0,
        disagreeing=disagreeing,
        mixed=[str(path) for path in chosen.runs["path"][chosen.runs["mixed"].eq(True)]]
        if len(chosen.runs)
        else [],
    )


def ranks(table: Table, column: str) -> dict[str, int]:
    """Name -> place of every method by its headline ``mean`` or ``paper_mean``; equals share one.

    None has a place by ``mean`` where rows of today's presets stand beside ones of older presets.
    """
    methods = table.block("method")
    values = methods[methods["metric"] == HEADLINE].set_index("name")[column].dropna().astype(float)
    if column == "mean" and 0 < len(table.displaced) < len(values):
        return {}
    places = values.rank(method="dense", ascending=not table.higher_is_better)
    return {str(name): int(place) for name, place in places.items()}


def tidy(tables: Sequence[Table]) -> pd.DataFrame:
    """The numbers of several tables in one frame, with ``task``, ``scale`` and ``source``."""
    return pd.concat(
        [
            table.numbers.assign(task=table.task, scale=table.scale, source=table.source)[
                ["task", "scale", "source", *table.numbers.columns]
            ]
            for table in tables
        ],
        ignore_index=True,
    )


def _methods(runs: pd.DataFrame, wanted: Selection) -> list[dict[str, Any]]:
    metrics = [
        name
        for name in runs.columns
        if name.startswith(_TOLD)
        and pd.api.types.is_numeric_dtype(runs[name])
        and not pd.api.types.is_bool_dtype(runs[name])
        and not _LEFT_OUT.search(name)
    ]
    # A table without runs shows the paper's values and what is missing.
    metrics = list(dict.fromkeys([RMSE, HEADLINE, *metrics]))
    printed = TABLE_1.get(base_of(wanted.task), {}) if wanted.compare else {}
    rows = []
    for section, name, model, grad in ROWS:
        found = cell_runs(runs, model, grad)
        paper = dict(zip((RMSE, HEADLINE), printed.get((model, grad), ()), strict=False))
        for metric in metrics:
            estimated = estimate(found[metric].tolist() if metric in found else [])
            if not estimated.count and metric not in paper:
                continue
            value = paper.get(metric)
            rows.append(
                {
                    "block": "method",
                    "section": section,
                    "name": name,
                    "model": model,
                    "grad": grad,
                    "metric": metric,
                    "paper_mean": None if value is None else value.mean,
                    "paper_error": None if value is None else value.error,
                    **asdict(estimated),
                }
            )
    return rows


def _plain(block: str, values: Mapping[str, pd.Series]) -> list[dict[str, Any]]:
    return [
        {
            "block": block,
            "name": name,
            "metric": HEADLINE,
            **asdict(estimate(by_seed.tolist())),
        }
        for name, by_seed in values.items()
    ]


def _baselines(runs: pd.DataFrame, task: str) -> tuple[dict[str, pd.Series], list[str]]:
    """Name -> value a seed of every plain baseline, and those that runs disagree on."""
    prefix = "test.baselines."
    layout = layout_of(task)
    found, disagreeing = {}, []
    names = list(layout.baselines)
    columns = [name for name in runs.columns if name.startswith(prefix)]
    order = {f"{prefix}{name}": place for place, name in enumerate(names)}
    for column in sorted(columns, key=lambda name: (order.get(name, len(names)), name)):
        known = runs[["seed", column]].dropna()
        if known.empty:
            continue
        name = plain_name(layout, column.removeprefix(prefix))
        by_seed = known.groupby("seed")[column]
        found[name] = by_seed.mean()
        spread = by_seed.max() - by_seed.min()
        if (spread > 1e-6 * by_seed.max().abs()).any():
            disagreeing.append(name)
    return found, disagreeing


def _models(runs: pd.DataFrame, task: str) -> dict[str, pd.Series]:
    """Title -> value a seed of the models that a task's table shows among its baselines."""
    found = {
        title: values_by_seed(cell_runs(runs, *cell))
        for cell, title in layout_of(task).models.items()
    }
    return {title: by_seed for title, by_seed in found.items() if len(by_seed)}


def _published(runs: pd.DataFrame, task: str) -> dict[str, pd.Series]:
    found = published_of(task, runs["config"] if len(runs) else ())
    return {title: pd.Series([cost]) for title, cost in found.items()}


def _bounds(runs: pd.DataFrame, task: str) -> dict[str, pd.Series]:
    return {
        title: runs.dropna(subset=[metric]).groupby("seed")[metric].mean()
        for metric, title in layout_of(task).bounds.items()
        if metric in runs and runs[metric].notna().any()
    }


def _seeds(runs: pd.DataFrame) -> tuple[int, ...]:
    return tuple(sorted(int(seed) for seed in runs["seed"].unique())) if len(runs) else ()
