"""Batched solvers: one call for a whole batch of stochastic programs."""

from diffusion_dfl.solvers.dispatch import SOLVERS, SolverName, solve
from diffusion_dfl.solvers.solution import Solution, Status, report

__all__ = ["SOLVERS", "Solution", "SolverName", "Status", "report", "solve"]
