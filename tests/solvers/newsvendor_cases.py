"""Instances of the newsvendor and its KKT conditions, written apart from the package."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from diffusion_dfl.programs import Newsvendor
from diffusion_dfl.solvers import Solution

Array = NDArray[np.float64]


def demand(batch: int, num_scenarios: int, size: int, seed: int = 0) -> Tensor:
    """Two-humped demand around 0 to 5."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_scenarios, size)
    hump = (torch.rand(shape, dtype=torch.float64, generator=generator) < 0.4).double()
    level = 1 + torch.rand(batch, 1, size, dtype=torch.float64, generator=generator)
    noise = torch.randn(shape, dtype=torch.float64, generator=generator)
    return level + 2 * hump + 0.3 * noise


def random_weights(shape: tuple[int, int], seed: int, zeros: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(shape, dtype=torch.float64, generator=generator)
    if zeros:
        weights = torch.where(weights < 0.4, 0.0, weights)
        weights[:, -1] += 0.1
    return weights / weights.sum(1, keepdim=True)


def slopes(p: Newsvendor, y: Array, s: Array, z: Array, right: bool) -> Array:
    """One-sided slopes of every scenario's cost by formulas of this test alone: ``(B, M, n)``."""
    a, z, s = y - z[:, None], z[:, None], s[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = a / s
        up, down, density = norm.cdf(t), norm.cdf(-t), norm.pdf(t)
        above = (a**2 + s**2) * up + a * s * density
        below = (a**2 + s**2) * down - a * s * density
    exact = s == 0
    up = np.where(exact, a > 0 if right else a >= 0, up)
    above = np.where(exact, np.maximum(a, 0) ** 2, above)
    below = np.where(exact, np.maximum(-a, 0) ** 2, below)
    return np.asarray(p.c0 + p.q0 * z + p.ch - (p.cb + p.ch) * up - p.rb * above + p.rh * below)


def kkt_residual(
    p: Newsvendor, scenarios: Tensor, weights: Tensor, width: Tensor, solution: Solution
) -> Array:
    """Largest violation of the KKT conditions an instance, relative to slopes and to the box."""
    y, w, s, z = (t.numpy() for t in (scenarios, weights, width, solution.decision))
    g, duals = solution.subgradients.numpy(), solution.duals.numpy()
    size = z.shape[1]
    lower, upper = duals[:, :size], duals[:, size:]
    least, most = (slopes(p, y, s, z, right) for right in (False, True))
    # What rounding is relative to: the terms of a slope without their signs.
    fixed = 1e-300 + abs(p.c0) + p.cb + p.ch + p.q0 * z[:, None]
    terms = fixed + p.rb * np.maximum(y - z[:, None], 0) ** 2
    terms = terms + p.rh * np.maximum(z[:, None] - y, 0) ** 2
    terms = terms + (p.rb + p.rh) * s[:, None] ** 2
    unit = np.einsum("bm,bmn->bn", w, terms)
    outside = np.maximum(least - g, g - most)
    parts = [(outside / terms).max(1)]
    parts.append(abs(np.einsum("bm,bmn->bn", w, g) - lower + upper) / unit)
    parts += [-z / p.z_max, (z - p.z_max) / p.z_max, -lower / unit, -upper / unit]
    parts += [lower * z / (unit * p.z_max), upper * (p.z_max - z) / (unit * p.z_max)]
    return np.asarray(np.max(parts, axis=0).max(1))
