"""Data: sources, download with checksum, cleaning, features and splits."""

from diffusion_dfl.data.dataset import DataError, Dataset
from diffusion_dfl.data.download import fetch
from diffusion_dfl.data.features import load_features
from diffusion_dfl.data.pjm import daily_load, fetch_pjm, load_hourly
from diffusion_dfl.data.power import power_dataset, weather_dataset
from diffusion_dfl.data.restaurant import restaurant_dataset
from diffusion_dfl.data.simulated import simulated_daily
from diffusion_dfl.data.splits import Split, split_days

__all__ = [
    "DataError",
    "Dataset",
    "Split",
    "daily_load",
    "fetch",
    "fetch_pjm",
    "load_features",
    "load_hourly",
    "power_dataset",
    "restaurant_dataset",
    "simulated_daily",
    "split_days",
    "weather_dataset",
]
