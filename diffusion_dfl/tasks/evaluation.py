"""Judging a trained predictor by the decisions it leads to, and by its forecasts."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_dfl.estimators import Batch
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DecisionMaker
from diffusion_dfl.predictors.decision_maker import Decided
from diffusion_dfl.progress import Listener, followed
from diffusion_dfl.solvers import Status
from diffusion_dfl.tasks.rule import LayerRule, rows_at_once
from diffusion_dfl.tasks.task import Judgement

logger = logging.getLogger(__name__)

# Metrics that a policy has no scenarios for.
_OF_SCENARIOS = (
    "task_exact",
    "task_large",
    "task_exact_large",
    "rmse_scenario",
    "rmse_mean",
    "crps",
    "coverage_90",
)

#: Decisions ``(N, n)`` -> what they are worth on the rows evaluated.
Judge = Callable[[NDArray[np.float64]], Judgement]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a set of rows.

    Attributes:
        metrics: name -> number or list of numbers, or None where it has no meaning for the method.
            Means are over the rows that have a decision.
        per_row: headline number of every row under the method's own rule, ``(N,)``; NaN in the rows
            that have no decision.
    """

    metrics: dict[str, Any]
    per_row: NDArray[np.float64]

    @property
    def undecided(self) -> int:
        """Rows that have no decision under the method's own rule."""
        return int(np.isnan(self.per_row).sum())


def decision_scores(
    predictor: DecisionMaker,
    layers: Sequence[DecisionLayer],
    rows: Batch,
    num_scenarios: int,
    generator: torch.Generator,
) -> list[float]:
    """Weighted mean cost of the decisions on rows under each layer's rule: validation scores.

    All rules decide on the same scenarios. Of rows that are pooled one decision is judged by all
    outcomes. NaN for a rule that decides nothing.
    """
    rules = [LayerRule(layer, num_scenarios, counted=True) for layer in layers]
    parts = [
        [one.decision for one in _decide(predictor, rules, part, generator)[0]]
        for part in rows.split(rows_at_once(num_scenarios))
    ]
    known, costs = rows.outcome_context.double(), []
    for layer, made in zip(layers, zip(*parts, strict=True), strict=True):
        decision = torch.cat(made).expand(len(rows), -1)
        cost = layer.program.realised(rows.outcome.double(), decision, known)
        if rows.weights is not None:
            # A row without a decision takes its weight out of the mean.
            counted = rows.weights.to(cost).masked_fill(cost.isnan(), torch.nan)
            cost = counted * cost / counted.nanmean()
        costs.append(float(cost.nanmean()))
    return costs


def evaluate(
    predictor: DecisionMaker,
    layer: DecisionLayer,
    rows: Batch,
    num_scenarios: int,
    generator: torch.Generator,
    judge: Judge,
    num_large: int = 500,
    progress: Listener | bool = True,
) -> Evaluation:
    """All metrics of a predictor or policy on a set of rows.

    ``task`` is the mean over rows of what the task's judge makes of the decisions of the layer's rule
    on M scenarios: what was trained is what is evaluated. ``task_exact`` decides with the exact
    sample program on the same scenarios; ``task_large`` and ``task_exact_large`` do the same on
    ``num_large`` scenarios with the bandwidth constant of M. ``rmse_scenario`` is the root mean
    squared error over scenarios, rows and coordinates, ``rmse_mean`` that of the scenario mean;
    ``crps`` is the mean over rows and coordinates (fair estimator), ``coverage_90`` the share of
    outcomes between the 5 % and 95 % quantiles of the scenarios. Rows whose scenarios are not finite
    count in none of these; ``nonfinite_rows`` counts them.

    A row that is not solved has no decision and counts in no mean of its rule. A warning says how many
    of how many, and why; ``undecided`` counts those of ``task``, ``solver_failures`` those of all rules
    together. Of a policy ``task`` is that of its projected decision and ``task_raw`` that of the
    decision itself; what is of scenarios is None.

    Args:
        predictor: in evaluation mode.
        layer: the decision rule; its ``sample_size`` is the M it was trained with.
        rows: N of them, every one counted once.
        num_scenarios: M.
        generator: evaluation noise.
        judge: what decisions are worth; its further metrics are reported for ``task`` only.
        num_large: scenarios of the large evaluation; the first M of them serve for ``task``.
        progress: told of the rows that are done (:class:`~diffusion_dfl.progress.Listener`); True
            draws a bar where standard error is a terminal, and False nothing.
    """
    rules = {"task": LayerRule(layer, num_scenarios)}
    if predictor.decides:
        rows = replace(rows, pooled=False)  # It says one a row, though all are the same.
    else:
        rules["task_exact"] = LayerRule(layer, num_scenarios, exact=True)
        rules["task_large"] = LayerRule(layer, num_large)
        rules["task_exact_large"] = LayerRule(layer, num_large, exact=True)
    largest = max(rule.num_scenarios for rule in rules.values())
    decisions: dict[str, list[Tensor]] = {}
    parts: dict[str, list[Tensor]] = {}
    statuses: dict[str, list[Tensor]] = {}
    nonfinite = 0
    for part in followed("evaluate", rows.split(rows_at_once(largest)), progress):
        found, drawn = _decide(predictor, list(rules.values()), part, generator)
        for name, made in zip(rules, found, strict=True):
            statuses.setdefault(name, []).append(made.status)
            decisions.setdefault(name, []).append(made.decision)
        if predictor.decides:
            decisions.setdefault("task_raw", []).append(drawn[:, 0].double())
            nonfinite += int((~drawn.isfinite().all(2)).sum())
            continue
        scores = _forecast_scores(drawn.double(), part.outcome.double())
        nonfinite += int((~scores["scenario_error"].isfinite()).sum())
        for name, value in scores.items():
            parts.setdefault(name, []).append(value)
    judgements = {
        name: judge(torch.cat(made).expand(len(rows), -1).cpu().numpy())
        for name, made in decisions.items()
    }
    metrics: dict[str, Any] = dict.fromkeys(_OF_SCENARIOS)
    metrics |= {name: found.task for name, found in judgements.items()}
    metrics |= judgements["task"].metrics
    joined = {name: torch.cat(values) for name, values in parts.items()}
    if joined:
        metrics["rmse_scenario"] = float(joined["scenario_error"].nanmean().sqrt())
        metrics["rmse_mean"] = float(joined["mean_error"].nanmean().sqrt())
    if predictor.stochastic:
        metrics["crps"] = float(joined["crps"].nanmean())
        metrics["coverage_90"] = float(joined["covered"].nanmean())
    solved = {name: torch.cat(found) for name, found in statuses.items()}
    failures = sum(int((found != int(Status.SOLVED)).sum()) for found in solved.values())
    _warn_of_undecided(solved, len(rows))
    _warn_of_ruin(judgements["task"].per_row)
    metrics |= {"nonfinite_rows": nonfinite, "solver_failures": failures}
    return Evaluation(_without_nan(metrics), judgements["task"].per_row)


def _warn_of_undecided(statuses: Mapping[str, Tensor], num_rows: int) -> None:
    """Name the rules that left rows without a decision, by their statuses ``(N,)``, or ``(1,)`` if pooled."""
    every = {name: found.expand(num_rows) for name, found in statuses.items()}
    failed = {name: found[found != int(Status.SOLVED)].tolist() for name, found in every.items()}
    if not any(failed.values()):
        return
    counts = ", ".join(
        f"{len(found)} of {num_rows} for {name}" for name, found in failed.items() if found
    )
    reasons = sorted({status for found in failed.values() for status in found})
    none = [name for name, found in failed.items() if len(found) == num_rows]
    means = "means are over the other rows, which may be the easier ones"
    if none:
        means = f"no row has one for {', '.join(none)}, which has no mean"
        if any(0 < len(found) < num_rows for found in failed.values()):
            means += "; means of the rest are over the other rows, which may be the easier ones"
    logger.warning(
        "rows without a decision: %s (%s); %s. decide() of the trained predictor gives the status of every row",
        counts,
        "; ".join(Status(status).sentence for status in reasons),
        means,
    )


def _warn_of_ruin(per_row: NDArray[np.float64]) -> None:
    """Name rows whose decision has no finite cost with the outcome that came, of ``(N,)``."""
    ruined = np.flatnonzero(np.isinf(per_row))
    if len(ruined):
        shown = ", ".join(str(row) for row in ruined[:5]) + (", ..." if len(ruined) > 5 else "")
        logger.warning(
            "%d of %d rows (%s) have a decision whose cost is infinite or no number with the outcome that "
            "came, as a logarithm of what was lost is; so is the mean. Keep decisions within the domain of "
            "the cost: by limits, or by outcomes that are as bad as any",
            len(ruined),
            len(per_row),
            shown,
        )


def _without_nan(value: Any) -> Any:
    """Numbers that are not finite as None, in dictionaries and lists too: records are JSON."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _forecast_scores(scenarios: Tensor, outcome: Tensor) -> dict[str, Tensor]:
    """Squared errors, CRPS and coverage, ``(N, d_y)`` each (``(N,)`` for the scenario error).

    Scenarios ``(B, M, d_y)``, outcomes ``(N, d_y)`` with N = B, or any N where B is 1.
    """
    edges = torch.tensor([0.05, 0.95], dtype=scenarios.dtype, device=scenarios.device)
    low, high = torch.quantile(scenarios, edges, dim=1)
    mean = scenarios.mean(1)
    # E |y_m - y|^2 without a tensor over scenarios and rows.
    spread = (scenarios - mean.unsqueeze(1)).square().mean((1, 2))
    finite = scenarios.isfinite().all(2).all(1).unsqueeze(1)
    crps = _crps(scenarios.nan_to_num(0.0, 0.0, 0.0), outcome)
    error = (mean - outcome).square()
    covered = ((outcome >= low) & (outcome <= high)).double()
    return {
        "scenario_error": torch.where(finite[:, 0], spread + error.mean(1), math.nan),
        "mean_error": torch.where(finite, error, math.nan),
        "crps": torch.where(finite, crps, math.nan),
        "covered": torch.where(finite, covered, math.nan),
    }


def _crps(scenarios: Tensor, outcome: Tensor) -> Tensor:
    """Fair continuous ranked probability score ``(N, d_y)``: E |y_m - y| - E |y_m - y_n| / 2.

    The second expectation, over pairs of different scenarios, is a sum over ranks (Zamo and Naveau,
    2018, eq. 22). Of one ensemble at many outcomes a column at a time, so that no tensor over scenarios,
    rows and columns is made.
    """
    count = scenarios.shape[1]
    if count < 2:
        return torch.zeros_like(outcome)
    ensemble = scenarios.mT.sort().values  # (B, d_y, M)
    ranks = torch.arange(count, dtype=ensemble.dtype, device=ensemble.device)
    ranked = (ensemble * ranks).sum(-1) / (count * (count - 1))
    if len(ensemble) == len(outcome):
        distance = (outcome.unsqueeze(-1) - ensemble).abs().mean(-1)
    else:
        columns = zip(outcome.unbind(1), ensemble.unbind(1), strict=True)
        distance = torch.stack(
            [(seen.unsqueeze(1) - drawn).abs().mean(1) for seen, drawn in columns], dim=1
        )
    return distance + ensemble.mean(-1) - 2.0 * ranked


def _decide(
    predictor: DecisionMaker, rules: Sequence[LayerRule], rows: Batch, generator: torch.Generator
) -> tuple[list[Decided], Tensor]:
    return predictor.decide(rules, rows.decision_context, rows.constraint_context, generator)
