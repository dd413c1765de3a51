"""Networks that turn a context into scenarios of the outcome, or a decision. They know no program."""

from diffusion_dfl.predictors.base import (
    Backpropagation,
    LogDensity,
    Predictor,
    Scaling,
)
from diffusion_dfl.predictors.boosting import BoostedQuantiles
from diffusion_dfl.predictors.bootstrap import ResidualBootstrap
from diffusion_dfl.predictors.decision_maker import DecisionMaker, Standardiser
from diffusion_dfl.predictors.deterministic import DeterministicPredictor
from diffusion_dfl.predictors.diffusion import DiffusionPredictor, ElboSurrogate, Sampling
from diffusion_dfl.predictors.flow import FlowPredictor
from diffusion_dfl.predictors.forest import ForestWeights
from diffusion_dfl.predictors.gaussian import GaussianPredictor, residual_base
from diffusion_dfl.predictors.linear import LinearPredictor
from diffusion_dfl.predictors.policy import PolicyNetwork
from diffusion_dfl.predictors.residual import BaseModels, ResidualBase

__all__ = [
    "Backpropagation",
    "BaseModels",
    "BoostedQuantiles",
    "DecisionMaker",
    "DeterministicPredictor",
    "DiffusionPredictor",
    "ElboSurrogate",
    "FlowPredictor",
    "ForestWeights",
    "GaussianPredictor",
    "LinearPredictor",
    "LogDensity",
    "PolicyNetwork",
    "Predictor",
    "ResidualBase",
    "ResidualBootstrap",
    "Sampling",
    "Scaling",
    "Standardiser",
    "residual_base",
]
