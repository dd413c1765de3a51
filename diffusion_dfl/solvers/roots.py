"""Roots of many increasing functions at once: Newton inside a shrinking bracket."""

from collections.abc import Callable

import torch
from torch import Tensor

_MAX_STEPS = 200

#: ``evaluate(points (k,), index (k,)) -> value (k,), slope (k,)`` for the functions in ``index``.
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def increasing_roots(
    evaluate: Evaluate, low: Tensor, high: Tensor, start: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve ``value_i(x_i) = 0`` for increasing functions, discontinuous ones included.

    A Newton step is taken when it stays in the bracket and the last one at least halved the
    value; otherwise the bracket is bisected. Functions that are done leave the batch.

    Args:
        evaluate: value and slope of some of the functions.
        low: ``(k,)``, where no function is positive.
        high: ``(k,)``, where none is negative.
        start: ``(k,)`` first guess.
        noise: ``(k,)``, rounding error of a value: smaller ones count as 0.

    Returns:
        Roots ``(k,)`` and the evaluations each took ``(k,)`` int64. At a jump through 0 the root
        is its position.
    """
    x = torch.minimum(torch.maximum(start, low), high)
    index = torch.arange(len(x), device=x.device)
    roots, counts = x.clone(), torch.zeros_like(index)
    previous = torch.full_like(x, torch.inf)
    for _ in range(_MAX_STEPS):
        if index.numel() == 0:
            break
        value, slope = evaluate(x, index)
        counts[index] += 1
        low, high = torch.where(value <= 0, x, low), torch.where(value >= 0, x, high)
        roots[index] = x
        # Relative to the root alone: the functions of small outcomes have small roots.
        keep = (value.abs() > noise) & (high - low > 4e-16 * (low.abs() + high.abs()))
        index, x, value, slope = index[keep], x[keep], value[keep], slope[keep]
        low, high, noise, previous = low[keep], high[keep], noise[keep], previous[keep]
        newton = x - value / slope
        slow = value.abs() > 0.5 * previous
        inside = (newton > low) & (newton < high)
        previous = torch.where(slow, torch.full_like(x, torch.inf), value.abs())
        x = torch.where(inside & ~slow, newton, 0.5 * (low + high))
    return roots, counts


def longest_share(
    good: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, halvings: int = 12
) -> Tensor:
    """The largest share ``(B,)`` of a step that is good, between positive ends of which the lower is.

    By orders of magnitude: the logarithm is halved, for conditions that hold up to one share and no
    further, as a limit on the slope of a convex function along the step does.
    """
    low, high = low.log(), high.log()
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        holds = good(middle.exp())
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low.exp()
