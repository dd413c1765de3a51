"""Decisions of a trained predictor for rows it has not seen."""

import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import PolicyNetwork, Predictor
from diffusion_dfl.solvers import Status
from diffusion_dfl.tasks import project

# Scenarios held at once, as in an evaluation.
_CHUNK_ROWS = 16384


def rows_at_once(num_scenarios: int) -> int:
    """Rows that are decided together."""
    return max(1, _CHUNK_ROWS // num_scenarios)


@torch.no_grad()
def decided(
    predictor: Predictor,
    layer: DecisionLayer,
    contexts: Tensor,
    num_scenarios: int,
    generator: torch.Generator,
    fill: bool,
) -> tuple[Tensor, Tensor]:
    """Decisions ``(B, n)`` float64 and statuses ``(B,)``; a policy's is whether it was projected.

    Networks see the contexts in float32, constraints as they are.

    Args:
        predictor: in evaluation mode.
        layer: the decision rule.
        contexts: ``(B, d_x)`` float64, at most :func:`rows_at_once` of them.
        num_scenarios: M.
        generator: noise of the scenarios.
        fill: whether noise is drawn for :func:`rows_at_once` rows however few there are: torch's
            draws depend on how many are asked for, so a row's decision would depend on the rows
            after it.
    """
    known = contexts.float()
    if isinstance(predictor, PolicyNetwork):
        raw = predictor.decide(known).double()
        decision = project(layer.program, raw, contexts)
        missed = torch.where(
            raw.isfinite().all(1), int(Status.NOT_CONVERGED), int(Status.INVALID_INPUT)
        )
        return decision, torch.where(decision.isfinite().all(1), int(Status.SOLVED), missed)
    missing = rows_at_once(num_scenarios) - len(known)
    if fill and predictor.stochastic and missing > 0 and len(known):
        known = torch.cat([known, known[-1:].expand(missing, -1)])
    scenarios = predictor.sample(known, num_scenarios, generator)[: len(contexts)]
    solution = layer.solve(scenarios, context=contexts)
    return solution.decision, solution.status
