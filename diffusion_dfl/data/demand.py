"""Demand of the inventory task: a mixture of Gaussians whose weights depend on the context (A.12).

    p(y | x) = sum_k pi_k(x) N(y; mu_k, deviation^2),
    pi_k(x) proportional to weight_k exp(logit_scale theta_k' x),      x ~ N(0, I),

with Theta drawn from N(0, 1) once a data set. Which mode the demand will be in is what the context
tells about; the modes themselves do not move.

The paper gives the form of the mixture and no number. Ours were fixed before anything was trained:

- contexts of 20 standard Gaussian features and weights that are a softmax of a linear function of
  them follow the inventory experiment of Donti et al. (2017), "Task-based end-to-end model learning
  in stochastic optimization", whose demand is discrete; so do the costs of the program;
- ``logit_scale`` 0.3 makes the standard deviation of a logit 0.3 sqrt(20) = 1.3, so that the likely
  mode is usually favoured and seldom certain: a predictor must learn probabilities, not labels;
- K = 3 modes at the middles of K equal parts of [0, demand_max], a range in which neither the
  linear nor the cubic costs dwarf the other (there demand goes up to 20, with squared penalties);
- ``deviation`` 0.2 keeps modes apart for K up to 5, so that a forecast with one mode is wrong.

Demand is not cut at 0: with the defaults a negative one has probability below 1e-5, and the expected
cost keeps its closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import Dataset, require


@dataclass(frozen=True, eq=False)
class DemandMixture:
    """The true conditional distribution of the demand.

    Attributes:
        means: mu, ``(K,)``, in units of demand.
        deviation: standard deviation of every component, in units of demand.
        log_weights: logarithm of the weights at x = 0, ``(K,)``.
        logits: ``logit_scale * Theta``, ``(K, d_x)``.
    """

    means: NDArray[np.float64]
    deviation: float
    log_weights: NDArray[np.float64]
    logits: NDArray[np.float64]

    @staticmethod
    def draw(
        rng: np.random.Generator,
        *,
        num_components: int = 3,
        weights: Sequence[float] | None = None,
        demand_max: float = 5.0,
        deviation: float = 0.2,
        context_size: int = 20,
        logit_scale: float = 0.3,
    ) -> DemandMixture:
        """A mixture with means ``(k - 1/2) demand_max / K`` and a Theta from ``rng``.

        Args:
            rng: draws Theta.
            num_components: K.
            weights: K weights at x = 0, positive with sum 1; equal ones if None.
            demand_max: upper end of the range in which the means are spread.
            deviation: standard deviation of a component.
            context_size: d_x.
            logit_scale: strength of the dependence on the context; 0 for none.

        Raises:
            DataError: a value out of range, naming the key.
        """
        mend = "a mixture needs at least 1 component"
        require(num_components >= 1, "task.num_components", num_components, mend)
        for name, value in {"demand_max": demand_max, "deviation": deviation}.items():
            mend = "it must be a finite number above 0"
            require(0.0 < value < math.inf, f"task.{name}", value, mend)
        mend = "the demand depends on at least 1 feature; logit_scale=0 cuts the dependence"
        require(context_size >= 1, "task.context_size", context_size, mend)
        mend = "it must be a finite number of at least 0, e.g. 0.3"
        require(0.0 <= logit_scale < math.inf, "task.logit_scale", logit_scale, mend)
        if weights is None:
            shares = np.full(num_components, 1.0 / num_components)
        else:
            shares = _checked_weights(weights, num_components)
        means = demand_max * (np.arange(num_components) + 0.5) / num_components
        theta = rng.standard_normal((num_components, context_size))
        return DemandMixture(means, deviation, np.log(shares), logit_scale * theta)

    def weights(self, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """``pi(x)`` of contexts ``(N, d_x)``: ``(N, K)``, rows with sum 1."""
        logits = self.log_weights + contexts @ self.logits.T
        shares: NDArray[np.float64] = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def density(
        self, demand: NDArray[np.float64], contexts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """``p(y | x)`` at demands ``(G,)`` for contexts ``(N, d_x)``: ``(N, G)``."""
        distance = (demand[None, :] - self.means[:, None]) / self.deviation
        height = np.exp(-0.5 * distance**2) / (self.deviation * math.sqrt(2.0 * math.pi))
        mixed: NDArray[np.float64] = self.weights(contexts) @ height
        return mixed

    def sample(
        self, rng: np.random.Generator, contexts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """One demand a context: ``(N, d_x) -> (N, 1)``."""
        edges = self.weights(contexts).cumsum(1)
        # The last edge is 1 up to rounding; leaving it out keeps every draw in a component.
        component = (rng.random(len(contexts))[:, None] >= edges[:, :-1]).sum(1)
        noise = rng.standard_normal(len(contexts))
        demand: NDArray[np.float64] = self.means[component] + self.deviation * noise
        return demand[:, None]


def demand_dataset(
    rng: np.random.Generator,
    mixture: DemandMixture,
    *,
    num_train: int = 1600,
    num_validation: int = 400,
    num_test: int = 1000,
) -> Dataset:
    """Independent contexts ``(N, d_x)`` and demands ``(N, 1)``.

    Args:
        rng: draws the contexts, then the demands.
        mixture: the true distribution.
        num_train, num_validation, num_test: rows of each part, in this order.

    Raises:
        DataError: a part without rows, naming the key.
    """
    sizes = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
    for name, size in sizes.items():
        require(size >= 2, f"task.{name}", size, "every part needs at least 2 rows")
    total, context_size = sum(sizes.values()), mixture.logits.shape[1]
    contexts = rng.standard_normal((total, context_size))
    train, validation, test = np.split(np.arange(total), np.cumsum([num_train, num_validation]))
    return Dataset(
        name="inventory",
        source="simulated",
        contexts=contexts,
        outcomes=mixture.sample(rng, contexts),
        dates=None,
        feature_names=tuple(f"feature_{column}" for column in range(context_size)),
        train=train,
        validation=validation,
        test=test,
    )


def _checked_weights(weights: Sequence[float], num_components: int) -> NDArray[np.float64]:
    shares = np.asarray(list(weights), dtype=np.float64)
    shown = shares.tolist()
    mend = f"it needs one weight a component, {num_components} (task.num_components)"
    require(shares.shape == (num_components,), "task.weights", shown, mend)
    mend = "weights must be above 0; leave out a component that never occurs"
    require(bool((shares > 0).all()), "task.weights", shown, mend)
    total = float(shares.sum())
    mend = f"weights must sum to 1 and these sum to {total:.10g}; divide each by that"
    require(abs(total - 1.0) <= 1e-9, "task.weights", shown, mend)
    return shares
