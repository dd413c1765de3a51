"""Conditional diffusion: noise schedule, denoiser and sampler, apart, and the predictor of all."""

from diffusion_dfl.predictors.diffusion.denoiser import Denoiser
from diffusion_dfl.predictors.diffusion.elbo import Elbo, ElboSurrogate
from diffusion_dfl.predictors.diffusion.predictor import DiffusionPredictor, ScenarioPath
from diffusion_dfl.predictors.diffusion.sampler import Sampler, Sampling
from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule, sampling_timesteps

__all__ = [
    "Denoiser",
    "DiffusionPredictor",
    "Elbo",
    "ElboSurrogate",
    "NoiseSchedule",
    "Sampler",
    "Sampling",
    "ScenarioPath",
    "sampling_timesteps",
]
