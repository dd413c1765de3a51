"""Sample average approximation of the nearest training contexts: a baseline without a model.

The k-nearest-neighbours case of Bertsimas and Kallus (2020), "From predictive to prescriptive
analytics", with equal weights.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_dfl.data import Dataset

# Multiples of the square root of the number of training rows that are tried.
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

#: Scenarios ``(N, k, d_y)`` -> decisions ``(N, d_z)``.
Solver = Callable[[NDArray[np.float64]], NDArray[np.float64]]
#: Outcomes ``(N, d_y)`` and decisions ``(N, d_z)`` -> cost a row ``(N,)``.
Cost = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def neighbours(
    data: Dataset, rows: NDArray[np.int64], count: int, known: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Outcomes ``(N, count, d_y)`` of the known rows whose contexts are nearest to those of ``rows``, in
    standard deviations of the known; constant features count nothing. Known are the training rows
    where nothing else is said."""
    known = data.train if known is None else known
    seen = data.contexts[known]
    scale = seen.std(0)
    scale[scale == 0] = np.inf
    points = torch.as_tensor((data.contexts[rows] - seen.mean(0)) / scale)
    distance = torch.cdist(points, torch.as_tensor((seen - seen.mean(0)) / scale))
    nearest = distance.topk(count, dim=1, largest=False).indices.numpy()
    outcomes: NDArray[np.float64] = data.outcomes[known][nearest]
    return outcomes


def neighbour_decisions(data: Dataset, solve: Solver, cost: Cost) -> NDArray[np.float64]:
    """Decisions ``(N, d_z)`` on the test rows, each from the outcomes of its nearest contexts among all
    rows before the test.

    How many neighbours: the number, near the square root of the training rows, that costs least on
    the validation rows with neighbours among the training rows.
    """
    rows = data.validation
    size = len(data.train)
    counts = sorted({min(max(round(factor * size**0.5), 1), size) for factor in _FACTORS})
    costs = [
        cost(data.outcomes[rows], solve(neighbours(data, rows, count))).mean() for count in counts
    ]
    return solve(neighbours(data, data.test, counts[int(np.argmin(costs))], data.known))
