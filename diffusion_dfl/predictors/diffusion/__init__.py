"""Conditional diffusion: noise schedule, denoiser and sampler, apart, and the predictor of all."""

from diffusion_dfl.predictors.diffusion.denoiser import Denoiser
from diffusion_dfl.predictors.diffusion.predictor import DiffusionPredictor
from diffusion_dfl.predictors.diffusion.sampler import Sampler
from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule, sampling_timesteps

__all__ = ["Denoiser", "DiffusionPredictor", "NoiseSchedule", "Sampler", "sampling_timesteps"]
