"""Differentiable decisions: from dL/dz* to dL/dy, or to score weights, by one adjoint solve."""

from diffusion_dfl.layers.adjoint import Degeneracy
from diffusion_dfl.layers.decision import DecisionLayer, LayerStatistics, SolverFailure
from diffusion_dfl.layers.implicit import ImplicitDecision, SolveOptions, SolveRecord

__all__ = [
    "DecisionLayer",
    "Degeneracy",
    "ImplicitDecision",
    "LayerStatistics",
    "SolveOptions",
    "SolveRecord",
    "SolverFailure",
]
