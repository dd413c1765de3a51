"""Conditional diffusion: noise schedule, denoiser and sampler, apart, and the predictor of all."""

from diffusion_dfl.predictors.diffusion.denoiser import Denoiser
from diffusion_dfl.predictors.diffusion.elbo import Elbo
from diffusion_dfl.predictors.diffusion.predictor import DiffusionPredictor, ScenarioPath
from diffusion_dfl.predictors.diffusion.sampler import Sampler
from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule, sampling_timesteps

__all__ = [
    "Denoiser",
    "DiffusionPredictor",
    "Elbo",
    "NoiseSchedule",
    "Sampler",
    "ScenarioPath",
    "sampling_timesteps",
]
