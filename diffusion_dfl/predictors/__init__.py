"""Predictors: networks that turn a context into scenarios of the outcome. They know no program."""

from diffusion_dfl.predictors.base import Backpropagation, LogDensity, Predictor, Standardiser
from diffusion_dfl.predictors.deterministic import DeterministicPredictor
from diffusion_dfl.predictors.diffusion import DiffusionPredictor
from diffusion_dfl.predictors.flow import FlowPredictor
from diffusion_dfl.predictors.gaussian import GaussianPredictor
from diffusion_dfl.predictors.policy import PolicyNetwork

__all__ = [
    "Backpropagation",
    "DeterministicPredictor",
    "DiffusionPredictor",
    "FlowPredictor",
    "GaussianPredictor",
    "LogDensity",
    "PolicyNetwork",
    "Predictor",
    "Standardiser",
]
