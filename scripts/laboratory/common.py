"""What subcommands share: the two-stage diffusion of the power task, gradients, how they agree."""

import argparse
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from diffusion_dfl.data import power_dataset
from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Batch
from diffusion_dfl.predictors import DiffusionPredictor
from diffusion_dfl.suite.config.compose import compose_config, identify
from diffusion_dfl.suite.runs.compile import make_predictor
from diffusion_dfl.training.streams import numpy_stream

COMMAND = ("model=diffusion", "grad=two_stage")


def at_least(least: int) -> Callable[[str], int]:
    """The type of a command-line option that is an integer of at least ``least``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} must be an integer of at least {least}")
        return value

    return parse


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
    predictor = make_predictor(config, data.contexts.shape[1], data.outcomes.shape[1])
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


def agreement(found: Tensor, true: Tensor) -> dict[str, float]:
    """How well draws ``(R, P)`` agree with draws ``(R, P)`` of the true gradient, pair by pair.

    Pairs in which either gradient is exactly 0, as where every bound binds, have no angle and are
    left out.

    Returns:
        ``one``: mean cosine of a pair, ``one_sd`` its standard deviation over pairs; ``mean``: cosine
        of the means of the draws, ``mean_sd`` its standard deviation, a jackknife's (too large where the
        cosine is near 1, its maximum, and so flat); ``zeros``: share of pairs left out. NaN where
        fewer than two pairs are left.
    """
    kept = (found.square().sum(1) > 0) & (true.square().sum(1) > 0)
    found, true = found[kept].double(), true[kept].double()
    zeros = 1.0 - float(kept.double().mean())
    count = len(found)
    if count < 2:
        names = ("one", "one_sd", "mean", "mean_sd")
        return dict.fromkeys(names, math.nan) | {"zeros": zeros}
    each = torch.nn.functional.cosine_similarity(found, true, dim=1)
    sums = found.sum(0), true.sum(0)
    left_out = torch.nn.functional.cosine_similarity(sums[0] - found, sums[1] - true, dim=1)
    return {
        "one": float(each.mean()),
        "one_sd": float(each.std()),
        "mean": cosine(*sums),
        "mean_sd": math.sqrt((count - 1) * float(left_out.var(correction=0))),
        "zeros": zeros,
    }
