"""Gradient estimators: how a batch becomes a gradient of the predictor's weights."""

from diffusion_dfl.estimators.base import Batch, Estimator, Loss, Mixture, Parts, decision_cost
from diffusion_dfl.estimators.cost_weighted import CostWeighted
from diffusion_dfl.estimators.policy import Policy
from diffusion_dfl.estimators.reparam import Reparam
from diffusion_dfl.estimators.score import Score, ScorePath, score_weights
from diffusion_dfl.estimators.set_score import SetScore
from diffusion_dfl.estimators.two_stage import TwoStage

__all__ = [
    "Batch",
    "CostWeighted",
    "Estimator",
    "Loss",
    "Mixture",
    "Parts",
    "Policy",
    "Reparam",
    "Score",
    "ScorePath",
    "SetScore",
    "TwoStage",
    "decision_cost",
    "score_weights",
]
