"""The score of the diffusion of the power task against the pathwise gradient, free of draw noise.

Noise lengthens the mean of R draws and so hides its direction: ``E |mean|^2 = |E g|^2 + tr Cov / R``.
Squared lengths here leave the products of a draw with itself out,

    |E g|^2 ~ sum_{r != s} g_r'g_s / (R (R - 1)),

and the truth comes from draws of its own, so that cosine and length are those of the expectation.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.estimators import Batch, Reparam, Score, ScorePath, score_weights
from diffusion_dfl.estimators.base import Estimator
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor
from diffusion_dfl.predictors.base import LogDensity
from diffusion_dfl.predictors.diffusion import Elbo, ElboSurrogate, ScenarioPath
from diffusion_dfl.programs import PowerProgram
from laboratory.common import draws

# Draws that fill the history of importance schemes.
_WARM_UP = 10
# First seeds of streams that share none: scenarios and noise of the score, draws of the truth.
_SCENARIOS, _NOISE, _TRUTH = 10**6, 2 * 10**6, 3 * 10**6


@dataclass(frozen=True)
class Setting:
    """An estimator and its surrogate.

    Attributes:
        estimator: ``score``, ``score_path`` or ``reparam``, which nothing below concerns.
        weighting, steps, timesteps, count: of :class:`ElboSurrogate`; ``count`` is its k.
        clip: ``weight_clip``.
        region: ``trust_region``.
    """

    estimator: str = "score"
    weighting: str = "simple"
    steps: str = "schedule"
    timesteps: str = "stratified"
    count: int = 2
    clip: float = 0.0
    region: float = 0.0

    @property
    def surrogate(self) -> str:
        if self.estimator != "score":
            return self.estimator
        words = [self.weighting, self.steps, f"k = {self.count}"]
        words += [] if self.timesteps == "stratified" else [self.timesteps.replace("_", " ")]
        return ", ".join(words)

    def estimator_of(self, scenarios: int) -> Estimator:
        """The estimator itself; a test holds :meth:`density` against it."""
        if self.estimator == "reparam":
            return Reparam(scenarios, fit_weight=0.0)
        kind = {"score": Score, "score_path": ScorePath}[self.estimator]
        return kind(scenarios, fit_weight=0.0, weight_clip=self.clip, trust_region=self.region)

    def density(
        self,
        predictor: DiffusionPredictor,
        context: Tensor,
        path: ScenarioPath,
        weights: Tensor,
        generator: torch.Generator,
    ) -> tuple[LogDensity, Tensor]:
        """What the estimator differentiates, and the share of weights clipped."""
        estimator = self.estimator_of(weights.shape[1])
        assert isinstance(estimator, Score)
        bounded, clipped = estimator._clip(weights)
        drawn = path if self.estimator == "score_path" else path.scenarios
        return estimator._density(predictor, context, drawn, bounded, generator), clipped


SIMPLE = Setting()
VLB = Setting(weighting="vlb", steps="sampler")
PATH = Setting("score_path")
#: The published recipe.
SHIPPED = replace(SIMPLE, clip=2.0, region=1.5)


def _bounds(base: Setting, clips: tuple[float, ...], regions: tuple[float, ...]) -> list[Setting]:
    return [
        *(replace(base, clip=clip) for clip in clips),
        *(replace(base, region=region) for region in regions),
        replace(base, clip=2.0, region=1.5),
    ]


SETTINGS: tuple[Setting, ...] = (
    SIMPLE,
    replace(SIMPLE, steps="sampler"),
    replace(SIMPLE, weighting="vlb"),
    VLB,
    replace(SIMPLE, count=10),
    replace(VLB, count=10),
    replace(VLB, timesteps="stratified_importance"),
    PATH,
    *_bounds(SIMPLE, (2.0,), (1.5,)),
    *_bounds(VLB, (2.0, 5.0), (1.5,)),
    *_bounds(PATH, (2.0, 5.0), (1.5,)),
)


@dataclass(frozen=True)
class Bench:
    """What gradients are taken of: mean decision cost of ``batch`` with M scenarios a context."""

    predictor: DiffusionPredictor
    batch: Batch
    scenarios: int
    bandwidth_scale: float

    @property
    def layer(self) -> DecisionLayer:
        return DecisionLayer(PowerProgram(), self.bandwidth_scale)

    def elbo(self, setting: Setting) -> Elbo:
        surrogate = ElboSurrogate(
            setting.count,
            setting.steps,  # type: ignore[arg-type]
            setting.weighting,  # type: ignore[arg-type]
            setting.timesteps,  # type: ignore[arg-type]
        )
        return Elbo(self.predictor.schedule, self.predictor.sampler, surrogate)

    def pathwise(self, seeds: range) -> Tensor:
        """Draws of the pathwise gradient, ``(R, P)``."""
        estimator = Reparam(self.scenarios, fit_weight=0.0)

        def value(generator: torch.Generator) -> Tensor:
            return estimator(self.predictor, self.layer, self.batch, generator).value

        return draws(self.predictor, value, seeds)

    def scores(self, settings: tuple[Setting, ...], seeds: range) -> tuple[Tensor, Tensor]:
        """Draws of the score by setting; a draw's scenarios and decisions are common to settings.

        Returns:
            Gradients ``(settings, R, P)`` and shares of weights clipped and of terms outside of the
            region, ``(settings, R, 2)``.
        """
        context, predictor = self.batch.context, self.predictor
        surrogates = [self.elbo(setting) for setting in settings]
        gradients: list[Tensor] = []
        shares: list[Tensor] = []
        for seed in (*range(-_WARM_UP, 0), *seeds):
            generator = torch.Generator().manual_seed(_SCENARIOS + seed)
            path = predictor.sample_path(context, self.scenarios, generator)
            _, weights = score_weights(self.layer, path.scenarios, self.batch.outcome)
            weights = weights / (self.scenarios - 1)
            row, share = [], []
            for setting, surrogate in zip(settings, surrogates, strict=True):
                if seed < 0 and not surrogate.uses_history:
                    continue
                predictor.elbo = surrogate
                density, clipped = setting.density(
                    predictor, context, path, weights, torch.Generator().manual_seed(_NOISE + seed)
                )
                predictor.zero_grad()
                density.value.backward()
                given = [p.grad.flatten() for p in predictor.parameters() if p.grad is not None]
                row.append(torch.cat(given))
                share.append(torch.stack([clipped.double(), density.outside.double()]))
            if seed >= 0:
                print(f"draw {len(gradients) + 1} of {len(seeds)}", flush=True)
                gradients.append(torch.stack(row))
                shares.append(torch.stack(share))
        return torch.stack(gradients, 1), torch.stack(shares, 1)

    def seconds(self, setting: Setting, repeats: int = 3) -> float:
        """Processor time of a draw with its own scenarios and decisions, the least of some."""
        predictor, layer, times = self.predictor, self.layer, []
        predictor.elbo = self.elbo(setting)
        estimator = setting.estimator_of(self.scenarios)
        for seed in range(repeats):
            predictor.zero_grad()
            started = time.process_time()
            estimator(
                predictor, layer, self.batch, torch.Generator().manual_seed(seed)
            ).value.backward()
            times.append(time.process_time() - started)
        return min(times)


def compare(found: Tensor, true: Tensor) -> dict[str, float]:
    """How draws ``(R, P)`` agree in expectation with draws ``(Q, P)`` of the truth, independent of them.

    Returns:
        ``cosine`` of the expectations; ``length``: their ratio; ``along``: the part of the length
        along the truth, what a step gains; ``one``: cosine of a draw with the truth, ``noise``:
        standard deviation of a draw, in lengths of its mean. With ``_se``, a jackknife's over both
        sets of draws. NaN where noise leaves no length.
    """
    grams = tuple(
        (a.double() @ b.double().T) for a, b in ((found, found), (found, true), (true, true))
    )
    whole = _statistics(*grams)
    result = dict(whole)
    left_out = (
        [_statistics(*_without(grams, row, None)) for row in range(len(found))],
        [_statistics(*_without(grams, None, row)) for row in range(len(true))],
    )
    for name in whole:
        variance = 0.0
        for parts in left_out:
            values = torch.tensor([part[name] for part in parts])
            variance += (len(parts) - 1) * float(values.var(correction=0))
        result[f"{name}_se"] = math.sqrt(variance)
    return result


def _without(
    grams: tuple[Tensor, ...], found: int | None, true: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    first, mixed, second = grams
    rows = torch.arange(len(first)) != (-1 if found is None else found)
    columns = torch.arange(len(second)) != (-1 if true is None else true)
    return first[rows][:, rows], mixed[rows][:, columns], second[columns][:, columns]


def _statistics(first: Tensor, mixed: Tensor, second: Tensor) -> dict[str, float]:
    """From the inner products ``(R, R)``, ``(R, Q)`` and ``(Q, Q)`` of both sets of draws."""
    squares = [_squared_length(first), _squared_length(second)]
    product = float(mixed.mean())
    own, true = (math.sqrt(square) if square > 0 else math.nan for square in squares)
    diagonal = first.diagonal()
    variance = float(diagonal.mean()) - squares[0]
    return {
        "cosine": product / (own * true),
        "length": own / true,
        "along": product / true**2,
        "one": float((mixed.mean(1) / diagonal.sqrt()).mean()) / true,
        "noise": math.sqrt(max(variance, 0.0)) / own,
    }


def _squared_length(gram: Tensor) -> float:
    """``|E g|^2`` without bias, from the inner products of independent draws."""
    count = len(gram)
    return float(gram.sum() - gram.diagonal().sum()) / (count * (count - 1))


def rows_of(
    bench: Bench, settings: tuple[Setting, ...], number: int, truth: int
) -> list[dict[str, Any]]:
    """A row a setting; ``ratio``: of its seconds to those of the first."""
    true = bench.pathwise(range(_TRUTH, _TRUTH + truth))
    rows: list[dict[str, Any]] = [
        {"surrogate": "reparam"} | compare(bench.pathwise(range(number)), true)
    ]
    found, shares = bench.scores(settings, range(number))
    for setting, gradients, share in zip(settings, found, shares.mean(1).tolist(), strict=True):
        head = {"surrogate": setting.surrogate, **setting.__dict__}
        head |= {"clipped_share": share[0], "outside_share": share[1]}
        rows.append(head | compare(gradients, true))
    timed: dict[str, float] = {}
    for row, setting in zip(rows, (Setting("reparam"), *settings), strict=True):
        if setting.surrogate not in timed:
            timed[setting.surrogate] = bench.seconds(setting)
        row["seconds"] = timed[setting.surrogate]
        row["ratio"] = row["seconds"] / timed.get(SHIPPED.surrogate, bench.seconds(SHIPPED))
    return rows
