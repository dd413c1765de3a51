"""Curvature for programs that have none: linear ones, whose optimum is a vertex that does not move.

    z*(eps) = argmin_z  sum_m omega_m f(y_m, z) + eps r(z)

    quadratic   r(z) = |z|^2 / 2
    entropic    r(z) = sum_i z_i log z_i       (needs lower bounds >= 0)

Where the decision of a linear program jumps from vertex to vertex, that of the regularised one moves
inside, and its derivative tells where to (Wilder et al., AAAI 2019, add the quadratic term). It is a
decision rule like a bandwidth: costs stay those of the program as it was stated.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.programs.general.quadratic import QuadraticCost
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.numbers import keep_numbers
from diffusion_dfl.programs.program import Hinges, KKTValues, Optimum, Program

Kind = Literal["quadratic", "entropic"]


@dataclass(frozen=True)
class Regulariser:
    """``weight * r(z)``, added to the cost where a decision is made, not where it is judged.

    Attributes:
        weight: eps > 0, in units of cost over decision squared (quadratic) or over decision.
        kind: ``quadratic`` or ``entropic``.

    Raises:
        ValueError: an unknown kind, or a weight that is no positive number.
    """

    weight: float
    kind: Kind = "quadratic"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind={self.kind!r} is unknown; choose {' or '.join(get_args(Kind))}")
        keep_numbers(self, "weight")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight={self.weight} must be a positive number")

    def require(self, lower: Tensor | None) -> None:
        """Raise ``ValueError`` for an entropy of decisions whose bounds do not keep them from negative."""
        if self.kind == "entropic" and (lower is None or not bool((lower >= 0).all())):
            raise ValueError(
                "regularise=entropic needs decisions that are not negative; give the program lower=0., "
                "or use the quadratic one"
            )

    def value(self, z: Tensor) -> Tensor:
        """``(..., n) -> (...)``."""
        if self.kind == "quadratic":
            return 0.5 * self.weight * (z**2).sum(-1)
        return self.weight * torch.special.xlogy(z, z).sum(-1)

    def gradient(self, z: Tensor) -> Tensor:
        """``(B, n) -> (B, n)``."""
        if self.kind == "quadratic":
            return self.weight * z
        return self.weight * (z.log() + 1)

    def bend(self, z: Tensor) -> Tensor:
        """Diagonal of the Hessian, ``(B, n) -> (B, n)``."""
        if self.kind == "quadratic":
            return torch.full_like(z, self.weight)
        return self.weight / z


class Regularised(Program):
    """A program with a regulariser in what is minimised; its ``cost`` is that of the program alone.

    Args:
        program: of any kind; solved by the interior point.
        regulariser: what is added.
    """

    def __init__(self, program: Program, regulariser: Regulariser) -> None:
        self.program, self.regulariser = program, regulariser
        self.num_decisions, self.num_outcomes = program.num_decisions, program.num_outcomes
        self.kinked, self.separable = program.kinked, program.separable
        self.contextual, self.cost_context = program.contextual, program.cost_context

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        return self.program.cost(outcome, decision)

    def cost_given(self, outcome: Tensor, decision: Tensor, context: Tensor | None) -> Tensor:
        return self.program.cost_given(outcome, decision, context)

    def with_context(self, instances: Instances) -> tuple[Program, Instances]:
        program, instances = self.program.with_context(instances)
        same = program is self.program
        return (self if same else Regularised(program, self.regulariser)), instances

    def with_kernels(self, instances: Instances) -> Instances:
        return self.program.with_kernels(instances)

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        return self.program.objective(instances, z) + self.regulariser.value(z)

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        every = self.program.gradients(instances, z)
        return every + self.regulariser.gradient(z).unsqueeze(1)

    def gradient(self, instances: Instances, z: Tensor) -> Tensor:
        return self.program.gradient(instances, z) + self.regulariser.gradient(z)

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        hessian = self.program.hessian(instances, z)
        bend = self.regulariser.bend(z)
        return hessian + (bend if hessian.dim() == 2 else torch.diag_embed(bend))

    def quadratic(self, instances: Instances) -> QuadraticCost | None:
        found = self.program.quadratic(instances)
        if found is None or self.regulariser.kind != "quadratic":
            return None
        bend = self.regulariser.bend(found.linear)
        return replace(found, hessian=found.hessian + torch.diag_embed(bend))

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        return self.program.cross_product(instances, z, adjoint, shares)

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        return self.program.constraints(like, context)

    def cvxpy_problem(self, scenarios: Any, weights: np.ndarray) -> tuple[Any, Any, list[Any]]:
        import cvxpy

        problem, z, constraints = self.program.cvxpy_problem(scenarios, weights)
        if self.regulariser.kind == "quadratic":
            term = 0.5 * self.regulariser.weight * cvxpy.sum_squares(z)
        else:
            term = -self.regulariser.weight * cvxpy.sum(cvxpy.entr(z))
        stated = cvxpy.Problem(cvxpy.Minimize(problem.objective.expr + term), problem.constraints)
        return stated, z, constraints

    def bandwidth_product(self, instances: Instances, z: Tensor, adjoint: Tensor) -> Tensor:
        return self.program.bandwidth_product(instances, z, adjoint)

    def hinges(self, instances: Instances) -> Hinges | None:
        return self.program.hinges(instances)

    def hinge_product(self, instances: Instances, z: Tensor, multipliers: Tensor) -> Tensor:
        return self.program.hinge_product(instances, z, multipliers)

    def learned(self, instances: Instances, optimum: Optimum) -> KKTValues | None:
        return self.program.learned(instances, optimum)

    def learns(self, like: Tensor, context: Tensor | None = None) -> bool:
        return self.program.learns(like, context)

    def validate(self, instances: Instances) -> None:
        """As the program, and raise ``ValueError`` for an entropy of decisions that may be negative."""
        self.program.validate(instances)
        given = self.program.constraints(instances.scenarios, instances.context)
        self.regulariser.require(given.lower)
