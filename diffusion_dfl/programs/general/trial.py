"""Trial of a user's functions: what torch.func cannot take is named, with the mend, before a solve.

A function is evaluated at a few points, plainly and vectorised, and its derivative is held against
central differences. This happens once a program and device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

# Sizes of the made-up outcomes and decisions, so that one of them lies in a function's domain.
_SIZES = (1.0, 0.1, 10.0)
_STEP = 1e-5
# Differences of a curved function are this accurate at least; a lost derivative is 100 % wrong.
_DERIVATIVE = 0.05
# A chord of an affine function meets it up to rounding.
_AFFINE = 1e-9
# Segments an outcome, steps a segment, and how often the step with the largest jump is divided.
_SEGMENTS, _GRID, _ZOOMS = 2, 64, 4
# A jump of the slope, as a share of its size, that is no rounding.
_JUMP = 1e-3


@dataclass(frozen=True)
class TrialPoints:
    """Points ``outcome (T, d_y)`` and ``decision (T, n)`` at which functions are tried."""

    outcome: Tensor
    decision: Tensor

    @staticmethod
    def of(
        like: Tensor,
        num_outcomes: int,
        num_decisions: int,
        lower: Tensor | None,
        upper: Tensor | None,
    ) -> "TrialPoints":
        """Of both signs and positive, of several sizes, within the bounds of the decision and not on them:
        there a logarithm or an inverse ends."""
        generator = torch.Generator().manual_seed(0)

        def draw(size: int) -> Tensor:
            normal = torch.randn(len(_SIZES), size, dtype=torch.float64, generator=generator)
            sizes = normal.new_tensor(_SIZES).unsqueeze(1)
            return torch.cat([sizes * normal, sizes * normal.abs()]).to(like.device)

        outcome, decision = draw(num_outcomes), draw(num_decisions)
        if lower is not None:
            decision = torch.where(decision < lower, 2 * lower - decision, decision)
        if upper is not None:
            decision = torch.where(decision > upper, 2 * upper - decision, decision)
        if lower is not None and upper is not None:
            share = decision.new_tensor(torch.rand(decision.shape, generator=generator).tolist())
            inside = lower + share * (upper - lower)
            decision = torch.where(inside.isfinite(), inside, decision)
        return TrialPoints(outcome, decision)

    def at(self, outcomes: Tensor) -> "TrialPoints":
        """The same decisions at given outcomes ``(R, d_y)``, ``R >= 1``, spread over their rows."""
        count = len(self.decision)
        rows = torch.linspace(0, len(outcomes) - 1, count, device=outcomes.device).round().long()
        return TrialPoints(outcomes[rows], self.decision)


def try_function(
    name: str,
    function: Callable[[Tensor, Tensor], Tensor],
    points: TrialPoints,
    scalar: bool = False,
    in_first: bool = True,
) -> Tensor:
    """Values of ``function(y, z)`` at the points, ``(T,)`` or ``(T, K)``, if nothing is wrong.

    Args:
        name: what messages call the function.
        scalar: whether it must return a single number.
        in_first: whether it must be differentiable in its first argument too.

    Raises:
        TypeError: it returns something else than a float64 tensor.
        ValueError: it fails, has the wrong shape, writes into its inputs, does not vectorise, is
            not differentiable, or is finite nowhere.
    """
    rows = [
        _plain(name, function, y, z) for y, z in zip(points.outcome, points.decision, strict=True)
    ]
    shape = rows[0].shape
    if scalar and shape != ():
        raise ValueError(
            f"{name} returned shape {tuple(shape)}; it must return one number a scenario, e.g. "
            "the .sum() of its terms"
        )
    if len(shape) > 1:
        raise ValueError(f"{name} returned shape {tuple(shape)}; expected a number or (K,)")
    plain = torch.stack(rows)
    try:
        together = vmap(function)(points.outcome, points.decision)
    except Exception as error:
        raise ValueError(
            f"{name} does not vectorise: {_first_line(error)}. Write it with torch operations on "
            "its arguments alone: torch.where instead of `if`, no .item(), float() or .numpy(), no "
            "writing into tensors"
        ) from error
    finite = plain.reshape(len(plain), -1).isfinite().all(1)
    if not bool(finite.any()):
        raise ValueError(
            f"{name} is NaN or infinite at every trial point; if it has a domain, such as the "
            "positive numbers, say so by lower= and upper="
        )
    if not torch.allclose(plain[finite], together[finite], rtol=1e-9, atol=1e-12):
        raise ValueError(
            f"{name} gives other values when scenarios are taken together; it must depend on "
            "its two arguments alone (no random numbers, no state)"
        )
    _try_derivatives(name, function, points, plain, finite, ("y", "z") if in_first else ("z",))
    return plain


def _plain(
    name: str, function: Callable[[Tensor, Tensor], Tensor], outcome: Tensor, decision: Tensor
) -> Tensor:
    y, z = outcome.clone(), decision.clone()
    try:
        value = function(y, z)
    except Exception as error:
        raise ValueError(
            f"{name} failed for arguments of shapes {tuple(y.shape)} and {tuple(z.shape)}, one "
            f"scenario and one decision in float64 on {z.device}: {_first_line(error)}"
        ) from error
    if not isinstance(value, Tensor) or value.dtype != torch.float64:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"{name} returned {kind}; it must return a torch.float64 tensor made of its arguments "
            "(make its constants float64)"
        )
    if not (torch.equal(y, outcome) and torch.equal(z, decision)):
        raise ValueError(
            f"{name} writes into its arguments; make a new tensor instead, e.g. by torch.stack"
        )
    return value.detach()


def _try_derivatives(
    name: str,
    function: Callable[[Tensor, Tensor], Tensor],
    points: TrialPoints,
    values: Tensor,
    finite: Tensor,
    arguments: tuple[str, ...],
) -> None:
    """Derivatives along a direction of (y, z), against central differences where f is finite."""
    y, z = points.outcome, points.decision

    def total(y: Tensor, z: Tensor) -> Tensor:
        return function(y, z).sum()

    try:
        in_y, in_z = vmap(grad(total, argnums=(0, 1)))(y, z)
        vmap(jacrev(grad(total, argnums=1), argnums=1))(y, z)
        vmap(grad(lambda y, z: grad(total, argnums=1)(y, z).sum()))(y, z)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be differentiated twice by torch.func: {_first_line(error)}. Write it "
            "with differentiable torch operations"
        ) from error
    for argument in arguments:
        at, slope = (y, in_y) if argument == "y" else (z, in_z)
        step = _STEP * (1e-3 + at.abs())
        pairs = (
            [(at + step, z), (at - step, z)]
            if argument == "y"
            else [(y, at + step), (y, at - step)]
        )
        above, below = (vmap(total)(*pair) for pair in pairs)
        change, expected = above - below, 2 * (slope * step).sum(1)
        rounding = 1e-12 * values.reshape(len(values), -1).abs().sum(1)
        wrong = ~((change - expected).abs() <= _DERIVATIVE * change.abs() + rounding)
        checked = finite & change.isfinite()
        if bool(wrong[checked].all()) and bool(checked.any()):
            raise ValueError(
                f"{name} is not differentiable in {argument}: its autograd derivative is not its "
                "slope. Leave out .detach(), .data, torch.tensor(...), no_grad and rounding"
            )


def try_affine_in_decision(
    name: str, argument: Callable[[Tensor, Tensor], Tensor], points: TrialPoints, mend: str
) -> None:
    """Raise ``ValueError`` if a function's ``(K,)`` values are curved along a chord in z."""
    left, right = points.decision, points.decision.roll(1, 0)
    ends = [vmap(argument)(points.outcome, z) for z in (left, right)]
    middle = vmap(argument)(points.outcome, 0.5 * (left + right))
    size = ends[0].abs() + ends[1].abs() + vmap(argument)(points.outcome, 0 * left).abs()
    error = (middle - 0.5 * (ends[0] + ends[1])).abs()
    # Not finite at some point is no evidence.
    if bool((error > _AFFINE * size).any()):
        raise ValueError(f"{name} is not affine in {mend}")


def try_convex(
    name: str,
    function: Callable[[Tensor, Tensor], Tensor],
    points: TrialPoints,
    mend: str,
    fixed: int = 0,
) -> None:
    """Raise ``ValueError`` if a function lies above a chord in z, its first ``fixed`` entries held."""
    left, right = points.decision, points.decision.roll(1, 0)
    right = torch.cat([left[:, :fixed], right[:, fixed:]], dim=1)
    ends = [vmap(function)(points.outcome, z) for z in (left, right)]
    middle = vmap(function)(points.outcome, 0.5 * (left + right))
    chord = 0.5 * (ends[0] + ends[1])
    if bool((middle - chord > _AFFINE * (ends[0].abs() + ends[1].abs())).any()):
        raise ValueError(f"{name} is not convex in {mend}")


@dataclass(frozen=True)
class Segments:
    """Outcomes ``(T, d_y)``, and two ends ``(T, n)`` of a segment of decisions each."""

    outcome: Tensor
    begin: Tensor
    end: Tensor

    @staticmethod
    def of(
        outcome: Tensor, num_decisions: int, lower: Tensor | None, upper: Tensor | None
    ) -> "Segments":
        """Across the box of the bounds, less its rim; where it has none, as far as outcomes are large."""
        generator = torch.Generator().manual_seed(1)
        outcome = outcome.repeat_interleave(_SEGMENTS, 0)
        shape = (len(outcome), num_decisions)
        share = 0.02 + 0.1 * torch.rand((2, *shape), dtype=torch.float64, generator=generator)
        share = share.to(outcome.device)
        size = outcome.abs().amax(1, keepdim=True).clamp_min(1e-3).expand(shape)
        low, high = -2.0 * size, 2.0 * size
        if lower is not None:
            low = torch.where(lower.isfinite(), lower, low)
            high = torch.maximum(high, low + 2.0 * size)
        if upper is not None:
            high = torch.where(upper.isfinite(), upper, high)
            low = torch.minimum(low, high) if lower is None else low
        # Coordinates of all directions, so that they meet kinks between them too.
        turned = torch.rand(shape, dtype=torch.float64, generator=generator).to(low.device) < 0.5
        near, far = low + share[0] * (high - low), high - share[1] * (high - low)
        return Segments(outcome, torch.where(turned, far, near), torch.where(turned, near, far))


def try_kinks(
    name: str, function: Callable[[Tensor, Tensor], Tensor], segments: Segments, mend: str
) -> None:
    """Raise ``ValueError`` if the slope of a function jumps up along a segment of decisions.

    A smooth slope changes by its derivative, the better the shorter the step; a jump stays. One that
    jumps down is of no convex function, which others look for.
    """

    def along(share: Tensor, y: Tensor, begin: Tensor, way: Tensor) -> Tensor:
        return function(y, begin + share * way).sum()

    def slopes(shares: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivatives at shares ``(T, P)`` of the way."""
        ways = (segments.outcome, segments.begin, segments.end - segments.begin)
        rows = [part.repeat_interleave(shares.shape[1], 0) for part in ways]
        found = [vmap(derivative)(shares.flatten(), *rows) for derivative in (first, second)]
        return found[0].view_as(shares), found[1].view_as(shares)

    first = grad(along)
    second = grad(first)
    grid = torch.linspace(0.0, 1.0, _GRID + 1, dtype=torch.float64, device=segments.begin.device)
    start, width = torch.zeros_like(segments.begin[:, :1]), 1.0
    for _ in range(_ZOOMS):
        shares = start + width * grid
        slope, bend = slopes(shares)
        step = width / _GRID
        change = slope[:, 1:] - slope[:, :-1]
        jump = (change - 0.5 * step * (bend[:, 1:] + bend[:, :-1])).nan_to_num(0.0, 0.0, 0.0)
        largest, where = jump.max(1, keepdim=True)
        start, width = shares.gather(1, where), step
    steep = slope.abs().nan_to_num(0.0, 0.0).amax(1)
    found = torch.nonzero(largest.squeeze(1) > _JUMP * steep)
    if found.numel():
        row = int(found[0])
        at, place = int(where[row]), segments.begin[row]
        place = place + start[row] * (segments.end[row] - place)
        shown = ", ".join(f"{value:.4g}" for value in place[:6].tolist())
        here, there = float(slope[row, at]), float(slope[row, at + 1])
        shown = f"from {here:.4g} to {there:.4g} at z=[{shown}{', ...' if len(place) > 6 else ''}]"
        raise ValueError(
            f"{name} has a kink in z, where its slope jumps {shown}. A kink inside of it (abs, relu, "
            f"maximum, where) is not seen: {mend}"
        )


def must_be_batched_alike(
    function: Callable[[Tensor, Tensor], Tensor], points: TrialPoints
) -> bool:
    """Whether a function vectorises only where both arguments do, as losses of torch."""

    def every(z: Tensor) -> Tensor:
        return vmap(lambda y: function(y, z))(points.outcome).sum()

    try:
        vmap(jacrev(grad(every)))(points.decision)
    except Exception:
        return True
    return False


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}".rstrip(".")
