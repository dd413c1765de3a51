"""The decision layer as the rule that predictors and policies are decided by."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors.decision_maker import Decided
from diffusion_dfl.solvers import Status
from diffusion_dfl.tasks.projection import project

# Scenarios held at once: bounds the memory of decisions whatever M is.
_CHUNK_ROWS = 16384


def rows_at_once(num_scenarios: int) -> int:
    """Rows that are decided together."""
    return max(1, _CHUNK_ROWS // num_scenarios)


@dataclass(frozen=True)
class LayerRule:
    """A :class:`~diffusion_dfl.predictors.decision_maker.Rule` of a layer.

    Attributes:
        layer: its program, and how it is solved.
        num_scenarios: M.
        exact: whether the exact sample program decides, whatever the layer smooths.
        counted: whether the layer recovers and counts its failures, and raises SolverFailure for too many,
            as in training; else they are what statuses say.
    """

    layer: DecisionLayer
    num_scenarios: int
    exact: bool = False
    counted: bool = False

    def optimal(self, scenarios: Tensor, context: Tensor, weights: Tensor | None = None) -> Decided:
        if weights is None:
            scenarios = scenarios[:, : self.num_scenarios]
        if self.counted:
            return _decided(scenarios.flatten(1), self.layer(scenarios, weights, context=context))
        solution = self.layer.solve(scenarios, self.exact, context, weights)
        return Decided(solution.decision, solution.status)

    def nearest(self, decision: Tensor, context: Tensor) -> Decided:
        return _decided(decision, project(self.layer.program, decision, context.double()))


def _decided(given: Tensor, decision: Tensor) -> Decided:
    """Decisions with their statuses, of what was given ``(B, ...)``."""
    finite = given.isfinite().all(1)
    missed = torch.where(finite, int(Status.NOT_CONVERGED), int(Status.INVALID_INPUT))
    return Decided(decision, torch.where(decision.isfinite().all(1), int(Status.SOLVED), missed))
