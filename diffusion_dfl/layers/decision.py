"""The decision layer as a module: scenarios in, decisions out, gradients by the adjoint."""

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffusion_dfl.layers.implicit import ImplicitDecision
from diffusion_dfl.programs.power import PowerProgram
from diffusion_dfl.programs.smoothing import bandwidth as bandwidth_rule
from diffusion_dfl.solvers import Solution

OnFailure = Literal["drop", "raise"]


class SolverFailure(RuntimeError):
    """Instances that were not solved, more than the layer tolerates; the message names them."""


@dataclass
class LayerStatistics:
    """Totals since the layer was made: instances seen, instances not solved, seconds."""

    instances: int = 0
    failures: int = 0
    seconds: float = 0.0


class DecisionLayer(nn.Module):
    """Solve the stochastic program on scenarios; differentiable in scenarios and weights.

    A kinked program is solved in its Gaussian-convolved form with bandwidth
    ``s_j = bandwidth_scale * std_m(y_mj) * M^(-1/5)``; gradients include the bandwidth's own
    dependence on the scenarios and their weights, unless ``bandwidth`` is passed.

    Args:
        program: the decision problem.
        bandwidth_scale: c; 0 solves the exact program.
        sample_size: the M of the bandwidth rule; the number of scenarios of the call if None.
        on_failure: ``drop`` leaves unsolved instances out (NaN decision, zero gradient) and counts
            them; ``raise`` stops at the first.
        max_failure_share: with ``drop``, share of unsolved instances of one call that is too many.

    Example:
        >>> layer = DecisionLayer(PowerProgram(), bandwidth_scale=1.5)
        >>> scenarios = torch.rand(8, 50, 24, requires_grad=True)
        >>> decision = layer(scenarios)                                # (8, 24) float64
        >>> PowerProgram().cost(torch.rand(8, 24), decision).mean().backward()
    """

    def __init__(
        self,
        program: PowerProgram,
        bandwidth_scale: float = 1.06,
        sample_size: int | None = None,
        on_failure: OnFailure = "drop",
        max_failure_share: float = 0.05,
    ) -> None:
        super().__init__()
        if on_failure not in ("drop", "raise"):
            raise ValueError(f"on_failure={on_failure!r} is unknown; choose drop or raise")
        self.program = program
        self.bandwidth_scale = bandwidth_scale
        self.sample_size = sample_size
        self.on_failure = on_failure
        self.max_failure_share = max_failure_share
        self.statistics = LayerStatistics()
        self.last_solution: Solution | None = None

    def forward(
        self,
        scenarios: Tensor,
        weights: Tensor | None = None,
        bandwidth: Tensor | None = None,
    ) -> Tensor:
        """Decisions ``(B, n)`` in float64, on the scenarios' device.

        This is the one place where networks' float32 meets the solver's float64; the cast is
        part of the graph.

        Args:
            scenarios: ``(B, M, d_y)``, any floating dtype.
            weights: ``(B, M)``, rows with sum 1; uniform if None.
            bandwidth: ``(B, d_y)``, fixed or differentiable; by the rule above if None.

        Raises:
            SolverFailure: too many instances were not solved.
        """
        scenarios = scenarios.double()
        if weights is None:
            weights = scenarios.new_full(scenarios.shape[:2], 1.0 / max(scenarios.shape[1], 1))
        weights = weights.double()
        if bandwidth is None:
            bandwidth = self.bandwidth(scenarios, weights)
        start = time.perf_counter()
        record: list[Solution] = []
        decision = ImplicitDecision.apply(
            self.program, scenarios, weights, bandwidth.double(), record
        )
        self.last_solution = record[0]
        self._count(record[0], time.perf_counter() - start)
        return decision

    def bandwidth(self, scenarios: Tensor, weights: Tensor | None = None) -> Tensor:
        """The width the layer uses for these scenarios, ``(B, d_y)``."""
        if not self.program.kinked or self.bandwidth_scale == 0:
            return torch.zeros_like(scenarios[:, 0])
        return bandwidth_rule(scenarios, weights, self.bandwidth_scale, self.sample_size)

    def _count(self, solution: Solution, seconds: float) -> None:
        failures = int((~solution.solved).sum())
        self.statistics.instances += len(solution.status)
        self.statistics.failures += failures
        self.statistics.seconds += seconds
        allowed = 0.0 if self.on_failure == "raise" else self.max_failure_share
        if failures > allowed * len(solution.status):
            raise SolverFailure(f"the decision layer failed on {solution.report()}")
