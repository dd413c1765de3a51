"""What the subcommands on the power task share: its two-stage diffusion, and gradients of it."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor

from diffusion_dfl.config.compose import compose_config, identify
from diffusion_dfl.data import power_dataset
from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Batch
from diffusion_dfl.predictors import DiffusionPredictor
from diffusion_dfl.training.streams import numpy_stream

COMMAND = ("model=diffusion", "grad=two_stage")


def trained_power(results: Path, num_days: int) -> tuple[DiffusionPredictor, Batch]:
    """The two-stage diffusion of seed 0 and its first training days.

    Raises:
        UserError: its run is not under ``results``.
    """
    config = compose_config(COMMAND)
    weights = results / "runs" / identify(config).path / "weights.pt"
    if not weights.exists():
        raise UserError(f"{weights} is missing; run `python train.py {' '.join(COMMAND)}` first")
    data = power_dataset("real", numpy_stream(config.seed, "split"))
    arguments = {key: value for key, value in config.model.items() if key != "name"}
    predictor = instantiate(arguments, data.contexts.shape[1], data.outcomes.shape[1])
    assert isinstance(predictor, DiffusionPredictor)
    predictor.load_state_dict(torch.load(weights, weights_only=True))
    rows = data.train[:num_days]
    batch = Batch(
        torch.as_tensor(data.contexts[rows], dtype=torch.float32),
        torch.as_tensor(data.outcomes[rows], dtype=torch.float32),
    )
    return predictor.eval(), batch


def draws(
    predictor: DiffusionPredictor, value: Callable[[torch.Generator], Tensor], seeds: Iterable[int]
) -> Tensor:
    """Gradients of ``value(generator)`` in the weights, one flat row a seed: ``(R, P)``."""
    rows = []
    for seed in seeds:
        predictor.zero_grad()
        value(torch.Generator().manual_seed(seed)).backward()
        rows.append(
            torch.cat([p.grad.flatten() for p in predictor.parameters() if p.grad is not None])
        )
    return torch.stack(rows)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def spread(gradients: Tensor) -> float:
    """Trace of the covariance over draws ``(R, P)``."""
    return float(gradients.var(0).sum())


def jackknife_ratio(numerator: Tensor, denominator: Tensor) -> tuple[float, float]:
    """Ratio of two spreads and its standard error, by leaving out a tenth of the draws at a time."""

    def parts(gradients: Tensor) -> list[float]:
        blocks = torch.arange(len(gradients)) % 10
        return [spread(gradients[blocks != block]) for block in range(10)]

    above, below = parts(numerator), parts(denominator)
    ratio = spread(numerator) / spread(denominator)
    error = 0.0
    for varied in (
        [value / spread(denominator) for value in above],
        [spread(numerator) / value for value in below],
    ):
        mean = sum(varied) / 10
        error += 0.9 * sum((value - mean) ** 2 for value in varied)
    return ratio, math.sqrt(error)
