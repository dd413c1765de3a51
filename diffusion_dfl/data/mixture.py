"""Profit margins of the product allocation task: a mixture of two Gaussians (section 6.1, A.9).

    y_i = scale * u_i,     u_i ~ p N(a, sigma^2) + (1 - p) N(-b, sigma^2),     i = 1..d independent

Most products gain, now and then one loses more than it ever gains. Products are independent, so
with one logarithm of a Laplace transform all is known in closed form:

    log E exp(-y' z) = sum_i L(z_i),
    L(z) = log( p exp(-scale a z + v) + (1 - p) exp(scale b z + v) ),    v = (scale sigma z)^2 / 2.

L is convex, L(0) = 0, so the best order z* is the same for every product: the root of L', or the
end of [0, C] nearest to it.

Two mixtures are named. ``paper`` is the one the paper states. ``released`` is the one its released
code draws from, and the printed numbers can come from that one alone: under ``paper`` no decision
has an expected cost below 0.929 for ten products, under ``released`` the optimum is 0.4006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import Dataset, require

# Bisections of [0, C]: beyond float64 resolution.
_BISECTIONS = 80


@dataclass(frozen=True)
class MarginMixture:
    """Distribution of one product's margin: ``outcome_scale * (p N(a, sigma^2) + (1-p) N(-b, ..))``.

    Attributes:
        p: probability of a gain, in (0, 1).
        a: mean gain, > 0, before scaling.
        b: mean loss, > 0, before scaling.
        sigma: standard deviation of both components, > 0, before scaling.
        outcome_scale: factor of all margins, > 0.

    Raises DataError, naming the key of the configuration, if a value is out of range.
    """

    p: float
    a: float
    b: float
    sigma: float
    outcome_scale: float

    def __post_init__(self) -> None:
        mend = "the probability of a gain must lie strictly between 0 and 1, e.g. 0.9"
        require(0.0 < self.p < 1.0, "task.p", self.p, mend)
        for name in ("a", "b", "sigma", "outcome_scale"):
            value = getattr(self, name)
            mend = "it must be a finite number above 0; mixture=released shows values that work"
            require(0.0 < value < math.inf, f"task.{name}", value, mend)

    def sample(self, rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Independent margins of the given shape."""
        gain = rng.random(size) < self.p
        noise = self.sigma * rng.standard_normal(size)
        return self.outcome_scale * (np.where(gain, self.a, -self.b) + noise)

    def log_cost(self, decisions: NDArray[np.float64]) -> NDArray[np.float64]:
        """``log E exp(-y' z)`` of decisions ``(..., d)``: ``(...)``. It never overflows."""
        gain, loss = self._log_terms(np.asarray(decisions, dtype=np.float64))
        return np.logaddexp(gain, loss).sum(-1)

    def expected_cost(self, decisions: NDArray[np.float64]) -> NDArray[np.float64]:
        """``E exp(-y' z)`` of decisions ``(..., d)``: ``(...)``; inf where float64 ends."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_cost(decisions))

    def best_order(self, capacity: float) -> float:
        """The minimiser of ``E exp(-y z)`` over ``0 <= z <= capacity`` for one product."""
        low, high = 0.0, float(capacity)
        if self._log_slope(low) >= 0:
            return low
        if self._log_slope(high) <= 0:
            return high
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            if self._log_slope(middle) < 0:
                low = middle
            else:
                high = middle
        return 0.5 * (low + high)

    def _log_terms(self, z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scaled = self.outcome_scale * z
        spread = 0.5 * (self.sigma * scaled) ** 2
        gain = math.log(self.p) - self.a * scaled + spread
        return gain, math.log1p(-self.p) + self.b * scaled + spread

    def _log_slope(self, z: float) -> float:
        """``L'(z)``: the mean of -y under the density tilted by ``exp(-y z)``."""
        gain, loss = (float(term) for term in self._log_terms(np.asarray(z)))
        share = math.exp(gain - np.logaddexp(gain, loss))
        shift = self.sigma**2 * self.outcome_scale * z
        return self.outcome_scale * (shift - self.a * share + self.b * (1.0 - share))


MIXTURES = {
    "released": MarginMixture(p=0.9, a=1.0, b=3.0, sigma=0.15, outcome_scale=0.5),
    "paper": MarginMixture(p=0.8, a=1.0, b=3.0, sigma=0.15, outcome_scale=1.0),
}


def margin_dataset(
    rng: np.random.Generator,
    mixture: MarginMixture,
    *,
    num_products: int = 10,
    context_size: int = 0,
    num_train: int = 640,
    num_validation: int = 160,
    num_test: int = 200,
) -> Dataset:
    """Independent rows of margins ``(N, d)``; a new data set for every state of ``rng``.

    Args:
        rng: draws the contexts, then the margins.
        mixture: of every product.
        num_products: d.
        context_size: 0 for no context, which is one constant column; else this many independent
            N(0, 1) features, which say nothing about the margins (the release has 20).
        num_train, num_validation, num_test: rows of each part, in this order.

    Raises:
        DataError: a number out of range, naming the key.
    """
    require(num_products >= 1, "task.num_products", num_products, "it must be at least 1")
    require(context_size >= 0, "task.context_size", context_size, "it must be 0 (none) or more")
    sizes = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
    for name, size in sizes.items():
        require(size >= 2, f"task.{name}", size, "every part needs at least 2 rows")
    total = sum(sizes.values())
    contexts = rng.standard_normal((total, context_size)) if context_size else np.ones((total, 1))
    noise = tuple(f"noise_{column}" for column in range(context_size))
    train, validation, test = np.split(np.arange(total), np.cumsum([num_train, num_validation]))
    return Dataset(
        name="synthetic",
        source="simulated",
        contexts=contexts,
        outcomes=mixture.sample(rng, (total, num_products)),
        dates=None,
        feature_names=noise or ("constant",),
        train=train,
        validation=validation,
        test=test,
    )


def released_margins(
    num_rows: int = 1000,
    context_size: int = 20,
    num_products: int = 10,
    seed: int = 1,
    p: float = 0.9,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The one data set of the released code, bit by bit (made in float32 on the CPU).

    All its runs share these rows; the first 800 are for training and the last 200 for testing. With
    another probability ``p`` of a gain, some of the gains turn into losses and nothing else changes.

    Returns:
        contexts ``(N, d_x)``, pure noise, and outcomes ``(N, d)``, both float64.
    """
    mixture = MIXTURES["released"]
    generator = torch.Generator().manual_seed(seed)
    contexts = torch.randn(num_rows, context_size, generator=generator)
    chance = torch.full((num_rows, num_products), p)
    gain = torch.bernoulli(chance, generator=generator).bool()
    noise = torch.randn(num_rows, num_products, generator=generator) * mixture.sigma
    margins = mixture.outcome_scale * torch.where(gain, mixture.a + noise, noise - mixture.b)
    return contexts.double().numpy(), margins.double().numpy()
