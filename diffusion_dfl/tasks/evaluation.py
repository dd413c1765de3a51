"""Judging a trained predictor by the decisions it leads to, and by its forecasts."""

from dataclasses import dataclass

import numpy as np
import scoringrules
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import PolicyNetwork, Predictor
from diffusion_dfl.programs import PowerProgram, Program
from diffusion_dfl.solvers import solve

# Scenarios held at once: bounds the memory of an evaluation whatever M is.
_CHUNK_ROWS = 16384


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a set of days.

    Attributes:
        metrics: name -> number, or None where it has no meaning for the method.
        days: cost of every day under the method's own rule, ``(N,)``.
        hours: mean cost of every hour under it, ``(n,)``.
    """

    metrics: dict[str, float | int | None]
    days: np.ndarray
    hours: np.ndarray


def decision_score(
    predictor: Predictor,
    layer: DecisionLayer,
    contexts: Tensor,
    outcomes: Tensor,
    num_scenarios: int,
    generator: torch.Generator,
) -> float:
    """Mean cost of the decisions on ``contexts`` under the layer's rule: the validation score."""
    costs = []
    for context, outcome in _chunks(contexts, outcomes, num_scenarios):
        with torch.no_grad():
            if isinstance(predictor, PolicyNetwork):
                decision = project(layer.program, predictor.decide(context).double())
            else:
                decision = layer(predictor.sample(context, num_scenarios, generator))
            costs.append(layer.program.cost(outcome.double(), decision))
    return float(torch.cat(costs).nanmean())


def evaluate(
    predictor: Predictor,
    layer: DecisionLayer,
    contexts: Tensor,
    outcomes: Tensor,
    num_scenarios: int,
    generator: torch.Generator,
    num_large: int = 500,
) -> Evaluation:
    """All metrics of a predictor on a set of days.

    ``task`` is the mean over days of the cost summed over hours, decided with the layer's rule on
    M scenarios: what was trained is what is evaluated. ``task_exact`` decides with the exact sample
    program on the same scenarios; ``task_at_500`` and ``task_exact_at_500`` do the same on
    ``num_large`` scenarios with the bandwidth constant of M. ``rmse_scenario`` is the root mean
    squared error over scenarios, days and hours, ``rmse_mean`` that of the scenario mean; ``crps``
    is the mean over days and hours (fair estimator), ``coverage_90`` the share of outcomes between
    the 5 % and 95 % quantiles of the scenarios.

    Args:
        predictor: in evaluation mode.
        layer: the decision rule; its ``sample_size`` is the M it was trained with.
        contexts, outcomes: ``(N, d_x)``, ``(N, d_y)``, raw units.
        num_scenarios: M.
        generator: evaluation noise.
        num_large: scenarios of the large evaluation; the first M of them serve for ``task``.
    """
    program = layer.program
    if not isinstance(program, PowerProgram):
        raise TypeError(f"metrics by hour need a PowerProgram, not {type(program).__name__}")
    if isinstance(predictor, PolicyNetwork):
        return _evaluate_policy(predictor, program, contexts, outcomes)
    parts: dict[str, list[Tensor]] = {}
    failures = 0

    def cost(name: str, scenarios: Tensor, outcome: Tensor, smooth: bool) -> Tensor:
        nonlocal failures
        solution = layer.solve(scenarios, exact=not smooth)
        failures += int((~solution.solved).sum())
        hourly = program.hourly_cost(outcome.double(), solution.decision)
        parts.setdefault(name, []).append(hourly.sum(1))
        return hourly

    for context, outcome in _chunks(contexts, outcomes, num_large):
        with torch.no_grad():
            large = predictor.sample(context, num_large, generator)
            few = large[:, :num_scenarios]
            parts.setdefault("hours", []).append(cost("task", few, outcome, True))
            cost("task_exact", few, outcome, False)
            cost("task_at_500", large, outcome, True)
            cost("task_exact_at_500", large, outcome, False)
            for name, value in _forecast_scores(large.double(), outcome.double()).items():
                parts.setdefault(name, []).append(value)
    joined = {name: torch.cat(values) for name, values in parts.items()}
    metrics: dict[str, float | int | None] = {
        name: float(joined[name].nanmean())
        for name in ("task", "task_exact", "task_at_500", "task_exact_at_500")
    }
    metrics["rmse_scenario"] = float(joined["scenario_error"].mean().sqrt())
    metrics["rmse_mean"] = float(joined["mean_error"].mean().sqrt())
    metrics["crps"] = float(joined["crps"].mean()) if predictor.stochastic else None
    metrics["coverage_90"] = float(joined["covered"].mean()) if predictor.stochastic else None
    metrics["solver_failures"] = failures
    return Evaluation(
        metrics, joined["task"].cpu().numpy(), joined["hours"].nanmean(0).cpu().numpy()
    )


def project(program: Program, decision: Tensor) -> Tensor:
    """Nearest feasible decision in the Euclidean norm, ``(B, n) float64 -> (B, n)``.

    The projection is the program itself without its linear costs and with one scenario.
    """
    if not isinstance(program, PowerProgram):
        raise TypeError(f"a policy needs a PowerProgram, not {type(program).__name__}")
    quadratic = PowerProgram(0.0, 0.0, program.ramp, program.num_decisions)
    return solve(quadratic, decision.unsqueeze(1)).decision


def _evaluate_policy(
    predictor: PolicyNetwork, program: PowerProgram, contexts: Tensor, outcomes: Tensor
) -> Evaluation:
    with torch.no_grad():
        raw = predictor.decide(contexts).double()
    hourly = program.hourly_cost(outcomes.double(), project(program, raw))
    names = (
        "task_exact",
        "task_at_500",
        "task_exact_at_500",
        "rmse_scenario",
        "rmse_mean",
        "crps",
        "coverage_90",
    )
    metrics: dict[str, float | int | None] = {"task": float(hourly.sum(1).mean())}
    metrics["task_raw"] = float(program.cost(outcomes.double(), raw).mean())
    metrics.update(dict.fromkeys(names))
    metrics["solver_failures"] = 0
    return Evaluation(metrics, hourly.sum(1).cpu().numpy(), hourly.mean(0).cpu().numpy())


def _forecast_scores(scenarios: Tensor, outcome: Tensor) -> dict[str, Tensor]:
    """Squared errors, CRPS and coverage, ``(B, d_y)`` each (``(B,)`` for the scenario error)."""
    low, high = torch.quantile(
        scenarios, torch.tensor([0.05, 0.95], dtype=scenarios.dtype, device=scenarios.device), dim=1
    )
    crps = torch.zeros_like(outcome)
    if scenarios.shape[1] > 1:
        values = scoringrules.crps_ensemble(
            outcome.cpu().numpy(), scenarios.cpu().numpy(), m_axis=1, estimator="pwm"
        )
        crps = torch.as_tensor(values)
    return {
        "scenario_error": (scenarios - outcome.unsqueeze(1)).square().mean((1, 2)),
        "mean_error": (scenarios.mean(1) - outcome).square(),
        "crps": crps,
        "covered": ((outcome >= low) & (outcome <= high)).double(),
    }


def _chunks(contexts: Tensor, outcomes: Tensor, num_scenarios: int):  # type: ignore[no-untyped-def]
    size = max(1, _CHUNK_ROWS // num_scenarios)
    return zip(contexts.split(size), outcomes.split(size), strict=True)
