"""Two-stage learning: the predictor's own loss, no decision in sight."""

import torch

from diffusion_dfl.estimators.base import Batch, Loss, fit_loss
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor


class TwoStage:
    """Predict, then optimise: mean squared error, likelihood or denoising loss."""

    decision_focused = False
    takes_weights = True

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        value = fit_loss(predictor, batch, generator)
        return Loss(value, {"fit_loss": value.detach()})
