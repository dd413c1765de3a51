"""Differentiable decisions: from dL/dz* to dL/dy, or to score weights, by one adjoint solve."""

from diffusion_dfl.layers.decision import DecisionLayer, LayerStatistics, SolverFailure
from diffusion_dfl.layers.implicit import ImplicitDecision

__all__ = ["DecisionLayer", "ImplicitDecision", "LayerStatistics", "SolverFailure"]
