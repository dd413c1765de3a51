"""``gradient_lab.py linear``: Figure 6 and Proposition 5.1 on the linear-Gaussian model of A.5."""

import argparse
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule
from laboratory.common import at_least
from laboratory.files import environment
from laboratory.linear_bound import second_moment_bound
from laboratory.linear_gaussian import (
    ERROR_SHAPES,
    VARIANCES,
    WEIGHTINGS,
    ErrorShape,
    LinearDenoiser,
    LinearGaussianModel,
    ReverseChain,
    cosines,
)
from laboratory.linear_report import write

ERRORS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.3)
BOUND_DIMENSIONS = (2, 20)
BOUND_STEPS = 100
SCHEDULE_DIMENSION = 10


@dataclass(frozen=True)
class Effort:
    """What to run.

    Attributes:
        dimensions: d = p.
        timesteps: T.
        draws: models a cell; each has its own W, error and samples, the same in all cells of one
            d and T.
        samples: pairs (x, y_0) a model.
    """

    dimensions: tuple[int, ...] = (2, 5, 10, 20, 50)
    timesteps: tuple[int, ...] = (100, 1000)
    draws: int = 8
    samples: int = 48


@dataclass(frozen=True)
class Draw:
    """The random numbers of one model: W ``(d, d)``, x and standard normals ``(N, d)``."""

    slope: Tensor
    contexts: Tensor
    normals: Tensor
    error_seed: int

    @classmethod
    def numbered(cls, seed: int, size: int, num_samples: int) -> "Draw":
        """W_ij ~ N(0, 1/d), x ~ N(0, I): W x has about the unit variance of the data noise."""
        generator = torch.Generator().manual_seed(1000 * size + seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        slope = normal(size, size) / size**0.5
        contexts, normals = normal(num_samples, size), normal(num_samples, size)
        return cls(slope, contexts, normals, error_seed=seed)

    def model(self, chain: ReverseChain, shape: ErrorShape, error: float) -> LinearGaussianModel:
        """The optimum with an error; one draw has the same error directions at every size."""
        generator = torch.Generator().manual_seed(self.error_seed)
        denoiser = LinearDenoiser.optimum(chain, self.slope).perturbed(error, shape, generator)
        return LinearGaussianModel(denoiser, chain, self.contexts)


def cells() -> list[tuple[ErrorShape, float]]:
    """Error shapes and sizes; without an error the shapes are one."""
    return [(shape, e) for shape in ERROR_SHAPES for e in ERRORS if e > 0 or shape == "stepwise"]


def cosine_rows(effort: Effort) -> list[dict[str, Any]]:
    """Mean cosine and KL of every cell, with standard errors over the draws."""
    rows = []
    for steps in effort.timesteps:
        for size in effort.dimensions:
            started = time.perf_counter()
            draws = [Draw.numbered(i, size, effort.samples) for i in range(effort.draws)]
            for variance in VARIANCES:
                chain = ReverseChain.of(NoiseSchedule("linear", steps), variance)
                for shape, error in cells():
                    models = [draw.model(chain, shape, error) for draw in draws]
                    rows.append(
                        {"T": steps, "d": size, "variance": variance}
                        | {"shape": shape, "error": error}
                        | _cosine_row(models, draws)
                    )
            print(f"T={steps} d={size}: {time.perf_counter() - started:.1f} s", flush=True)
    return rows


def _cosine_row(models: list[LinearGaussianModel], draws: list[Draw]) -> dict[str, float]:
    collected: dict[str, list[float]] = {name: [] for name in (*WEIGHTINGS, "kl")}
    for model, draw in zip(models, draws, strict=True):
        outcomes = model.sample(draw.normals)
        weights = torch.stack([model.chain.weights(weighting) for weighting in WEIGHTINGS])
        found = cosines(model.score(outcomes), model.noise_loss_gradient(outcomes), weights)
        for weighting, mean in zip(WEIGHTINGS, found.mean(1).tolist(), strict=True):
            collected[weighting].append(mean)
        collected["kl"].append(float(model.divergence(outcomes).mean()))
    row = {}
    for name, values in collected.items():
        row[name] = statistics.fmean(values)
        row[f"{name}_se"] = statistics.stdev(values) / len(values) ** 0.5
    return row


def schedule_rows(effort: Effort) -> list[dict[str, Any]]:
    """Mean cosines at the optimum under other schedules of the same length."""
    steps = min(BOUND_STEPS, max(effort.timesteps))
    size = min(SCHEDULE_DIMENSION, max(effort.dimensions))
    draws = [Draw.numbered(i, size, effort.samples) for i in range(effort.draws)]
    curves = {
        "linear, resampled (used here)": NoiseSchedule("linear", steps).alpha_bar.double(),
        f"beta_t linear, {0.1 / steps:g} to {20 / steps:g}": _straight(steps, 1000 / steps),
        "cosine": NoiseSchedule("cosine", steps).alpha_bar.double(),
        "beta_t linear, 0.0001 to 0.02": _straight(steps, 1.0),
    }
    rows = []
    for name, alpha_bar in curves.items():
        for variance in VARIANCES:
            chain = ReverseChain.along(alpha_bar, variance)
            models = [draw.model(chain, "stepwise", 0.0) for draw in draws]
            row = {"schedule": name, "T": steps, "d": size, "variance": variance}
            row["alpha_bar_T"] = float(alpha_bar[-1])
            rows.append(row | _cosine_row(models, draws))
    return rows


def _straight(num_steps: int, scale: float) -> Tensor:
    beta = scale * torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64)
    return torch.cat([beta.new_ones(1), (1 - beta.clamp_max(0.999)).cumprod(0)])


def bound_rows(effort: Effort) -> list[dict[str, Any]]:
    """Both sides of Proposition 5.1; means over samples and draws, ratios right over left."""
    steps = min(BOUND_STEPS, max(effort.timesteps))
    rows = []
    for variance in VARIANCES:
        chain = ReverseChain.of(NoiseSchedule("linear", steps), variance)
        for size in (size for size in BOUND_DIMENSIONS if size in effort.dimensions):
            draws = [Draw.numbered(i, size, effort.samples) for i in range(effort.draws)]
            for shape, error in cells():
                models = [draw.model(chain, shape, error) for draw in draws]
                rows.append(
                    {"T": steps, "d": size, "variance": variance, "shape": shape, "error": error}
                    | _bound_row(models, draws)
                )
    return rows


def _bound_row(models: list[LinearGaussianModel], draws: list[Draw]) -> dict[str, float]:
    sides = [
        second_moment_bound(model, model.sample(draw.normals))
        for model, draw in zip(models, draws, strict=True)
    ]
    left = torch.cat([side.difference for side in sides])
    row = {
        "kl": float(torch.cat([side.divergence for side in sides]).mean()),
        "length": float(torch.cat([side.length for side in sides]).mean()),
        "left": float(left.mean()),
    }
    for name in ("loose", "sharp", "centred"):
        right = torch.cat([getattr(side, name) for side in sides])
        ratio = right / left
        row |= {name: float(right.mean()), f"{name}_ratio": float(ratio.median())}
        row[f"{name}_smallest_ratio"] = float(ratio.min())
    return row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = Effort()
    parser.add_argument("--quick", action="store_true", help="tiny sizes; numbers mean little")
    for name, least in (("dimensions", 1), ("timesteps", 2)):
        values = getattr(usual, name)
        parser.add_argument(f"--{name}", nargs="+", type=at_least(least), default=values)
    parser.add_argument("--draws", type=at_least(2), default=usual.draws, help="models a cell")
    parser.add_argument("--samples", type=at_least(1), default=usual.samples, help="a model")
    parser.add_argument(
        "--output", type=Path, help="results/gradient_lab, with --quick its folder quick"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compute, write the files; 0, or 1 where a right side is below its left side."""
    torch.set_num_threads(1)
    effort = Effort(
        tuple(arguments.dimensions),
        tuple(arguments.timesteps),
        arguments.draws,
        arguments.samples,
    )
    if arguments.quick:
        effort = Effort(dimensions=(2, 3), timesteps=(10, 20), draws=2, samples=8)
    started = time.perf_counter()
    record: dict[str, Any] = {
        "command": _command(arguments, effort),
        "environment": environment(),
        "settings": asdict(effort) | {"quick": arguments.quick, "errors": ERRORS},
        "cosines": cosine_rows(effort),
        "schedules": schedule_rows(effort),
        "bound": bound_rows(effort),
    }
    record["seconds"] = round(time.perf_counter() - started, 1)
    usual = Path("results/gradient_lab", "quick" if arguments.quick else "")
    for path in write(record, arguments.output or usual):
        print(f"wrote {path}")
    broken = [row for row in record["bound"] if row["centred_smallest_ratio"] < 1]
    for row in broken:
        print(f"the bound is violated: {row}")
    return 1 if broken else 0


def _command(arguments: argparse.Namespace, effort: Effort) -> str:
    words = ["python scripts/gradient_lab.py linear"]
    if arguments.quick:
        return " ".join([*words, "--quick"])
    usual = asdict(Effort())
    for name, value in asdict(effort).items():
        if value != usual[name]:
            listed = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(str, listed)]
    return " ".join(words)
