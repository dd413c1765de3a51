"""Paired differences of Table 1: every method to what it should beat, over seeds and over days."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

import pandas as pd

from diffusion_dfl.suite.reporting.collect import Collection
from diffusion_dfl.suite.reporting.days import costs_by_day, interval
from diffusion_dfl.suite.reporting.layout import HEADLINE
from diffusion_dfl.suite.reporting.paper import DECISION_FOCUSED, ROWS
from diffusion_dfl.suite.reporting.selection import Chosen
from diffusion_dfl.suite.reporting.statistics import Estimate, estimate, paired

# Rows held against one of the same model: block, of which grads, against which.
_WITHIN = (
    ("against_own", ("reparam", "score", "score_path"), "two_stage"),
    ("against_reparam", ("score", "score_path"), "reparam"),
)
# Differences between methods, which have a cost a day each.
_OF_METHODS = ("against_two_stage", "against_own", "against_reparam", "against_twin")


def differences(
    chosen: Chosen,
    baselines: Mapping[str, pd.Series],
    higher: bool,
    collection: Collection | None,
) -> list[dict[str, Any]]:
    """Rows of `Table.numbers`: every method to what it should beat, of one age of presets as it is.

    Args:
        chosen: runs of the table.
        baselines: name -> value a seed, of the plain ones.
        higher: whether more is better.
        collection: of the runs, for intervals over days; None for none.
    """

    @cache
    def by_day(twin: bool, model: str, grad: str) -> pd.DataFrame:
        runs = cell_runs(chosen.twins if twin else chosen.runs, model, grad)
        return pd.DataFrame() if collection is None else costs_by_day(collection, runs)

    cells = {name: (model, grad) for _, name, model, grad in ROWS}
    titles = {cell: name for name, cell in cells.items()}
    values = {
        name: values_by_seed(cell_runs(chosen.runs, model, grad))
        for _, name, model, grad in ROWS
        if len(cell_runs(chosen.runs, model, grad))
    }
    plain = {
        name: values[name]
        for section, name, _, _ in ROWS
        if section != DECISION_FOCUSED and name in values
    }
    rows = []
    for section, name, model, grad in ROWS:
        if name not in values:
            continue
        ours = values[name]
        alike = {
            other
            for other in values
            if (cells[other] in chosen.displaced) == ((model, grad) in chosen.displaced)
        }
        rivals = {other: values[other] for other in plain if other in alike}
        estimates: list[tuple[str, str, Estimate]] = []
        for block, candidates in (
            ("against_two_stage", rivals if section == DECISION_FOCUSED else {}),
            ("against_baseline", baselines),
        ):
            other = _best(candidates, ours, higher)
            if other is not None:
                estimates.append((block, other, paired(ours, candidates[other])))
        for block, grads, with_grad in _WITHIN:
            other = titles.get((model, with_grad), "")
            if grad in grads and other in alike:
                difference = paired(ours, values[other])
                estimates += [(block, other, difference)] if difference.count else []
        twin = values_by_seed(cell_runs(chosen.twins, model, grad))
        shared = ours.index.intersection(twin.index)
        if len(shared):
            estimates += [
                ("against_twin", "twin", paired(ours, twin)),
                ("with_twin", "", estimate(ours[shared].tolist())),
                ("twin", "", estimate(twin[shared].tolist())),
            ]
        for block, against, estimated in estimates:
            head = {"block": block, "section": section, "name": name, "model": model}
            head |= {"grad": grad, "against": against, "metric": HEADLINE}
            ends = {}
            if block in _OF_METHODS:
                theirs = (
                    by_day(True, model, grad)
                    if against == "twin"
                    else by_day(False, *cells[against])
                )
                days = interval(by_day(False, model, grad), theirs)
                ends = dict(zip(("days_low", "days_high"), days, strict=True))
            rows.append({**head, **asdict(estimated), **ends})
    return rows


def _best(candidates: Mapping[str, pd.Series], ours: pd.Series, higher: bool) -> str | None:
    """The candidate that is best on the seeds of ``ours``, among those that have most of them."""
    shared = {name: theirs[theirs.index.isin(ours.index)] for name, theirs in candidates.items()}
    most = max((len(theirs) for theirs in shared.values()), default=0)
    if most == 0:
        return None
    means = {name: float(theirs.mean()) for name, theirs in shared.items() if len(theirs) == most}
    choose_best = max if higher else min
    return choose_best(means, key=means.__getitem__)


def cell_runs(runs: pd.DataFrame, model: str, grad: str) -> pd.DataFrame:
    """Those of a model and grad."""
    return runs if runs.empty else runs[(runs["model"] == model) & (runs["grad"] == grad)]


def values_by_seed(runs: pd.DataFrame) -> pd.Series:
    """Headline number of every run, by its seed."""
    return runs.set_index("seed")[HEADLINE] if len(runs) else pd.Series(dtype=float)
