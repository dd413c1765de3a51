"""What a run of the interior point came to, instance by instance, and how further attempts join it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.solvers.active_set import Multipliers
from diffusion_dfl.solvers.newton_system import Problem
from diffusion_dfl.solvers.solution import Status


@dataclass(frozen=True)
class Outcome:
    """Decisions with multipliers, status, iterations ``(B,)`` and, of instances without an optimum,
    the residual of the proof ``(B,)``."""

    point: Multipliers
    status: Tensor
    iterations: Tensor
    proof: Tensor

    @staticmethod
    def nothing(problem: Problem) -> "Outcome":
        """Without a solved instance."""
        z = torch.zeros_like(problem.origin)
        at = problem.first_order(z)
        alpha = torch.zeros_like(at.arguments)
        dual, nu = torch.zeros_like(at.values), torch.zeros_like(at.equality)
        point = Multipliers(z, dual, nu, alpha, torch.zeros_like(alpha, dtype=torch.bool))
        return Outcome.of(point)

    @staticmethod
    def of(point: Multipliers) -> "Outcome":
        """Of decisions about which nothing is known."""
        status = torch.full_like(point.z[:, 0], int(Status.NOT_CONVERGED), dtype=torch.int64)
        unknown = torch.full_like(point.z[:, 0], torch.nan)
        return Outcome(point, status, torch.zeros_like(status), unknown)

    def copied(self) -> "Outcome":
        """The same in new tensors."""
        parts = self.status, self.iterations, self.proof
        return Outcome(self.point.copied(), *(part.clone() for part in parts))

    def open(self, among: Tensor | None = None) -> Tensor:
        """Indices of the instances ``among (B,)``, or all, that are not decided."""
        left = self.status == int(Status.NOT_CONVERGED)
        return torch.nonzero(left if among is None else left & among).flatten()

    def write(self, rows: Tensor, other: "Outcome") -> None:
        """Put a further attempt at the instances ``rows``, in place; iterations add up."""
        self.point.write(rows, other.point)
        self.status[rows], self.proof[rows] = other.status, other.proof
        self.iterations[rows] += other.iterations
