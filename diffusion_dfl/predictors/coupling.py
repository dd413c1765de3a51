"""Coupling layers of monotonic rational-quadratic splines, the parts of a flow.

Dinh et al. (2017) couple coordinates; the splines are those of Durkan et al. (2019). All that is as
large as a spline's bins times its values has the bins first, so that sums over bins are sums of whole
blocks of memory.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_dfl.predictors.backbone import ActivationName, backbone

# Splines are the identity outside of [-_BOUND, _BOUND].
_BOUND = 5.0

# Smallest slope of an affine map and of a spline's knots, its inverse being the largest: a standard
# deviation given the context stays within 0.01..100 of the outcome's own.
_SLOPE = 1e-2


def log_slope(raw: Tensor, limit: float = -math.log(_SLOPE)) -> Tensor:
    """A logarithm within ``(-limit, limit)``, of slope 1 at 0."""
    return raw / (1 + (raw / limit).abs())


class Coupling(nn.Module):
    """Every other coordinate as it is, the rest through splines that depend on those and the context.

    Maps outcomes to noise; :meth:`inverse` is the way back. A new one is the identity. With one
    coordinate nothing is left to couple with: its spline depends on the context alone.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        first: 0 keeps coordinates 0, 2, ...; 1 keeps 1, 3, ....
        bins: pieces of a spline, at least 2.
        width, layers, activation, dropout: of the network of the knots.
    """

    order: Tensor

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        first: int,
        bins: int,
        width: int,
        layers: int,
        activation: ActivationName,
        dropout: float,
    ) -> None:
        super().__init__()
        alone = outcome_size == 1
        self.kept = slice(0, 0) if alone else slice(first, None, 2)
        self.moved = slice(None) if alone else slice(1 - first, None, 2)
        self.bins = bins
        every = list(range(outcome_size))
        kept, moved = len(every[self.kept]), len(every[self.moved])
        # Where the coordinates are once those kept stand before those moved.
        order = torch.tensor([*every[self.kept], *every[self.moved]]).argsort()
        self.register_buffer("order", order, persistent=False)
        outputs = moved * (3 * bins - 1)
        self.network = backbone(kept + context_size, outputs, width, layers, activation, dropout)
        # Equal bins, slope 1.
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, context: Tensor, outcome: Tensor) -> tuple[Tensor, Tensor]:
        """Noise ``(B, M, d_y)`` and log-determinant ``(B, M)`` given ``(B, d_x)`` and ``(B, M, d_y)``."""
        moved, logarithms = self._splines(context, outcome).forward(self._moved(outcome))
        return self._with(outcome, moved), logarithms.sum(0).view(outcome.shape[:-1])

    def inverse(self, context: Tensor, noise: Tensor) -> Tensor:
        """Outcomes ``(B, M, d_y)`` of noise ``(B, M, d_y)``."""
        return self._with(noise, self._splines(context, noise).inverse(self._moved(noise)))

    def _splines(self, context: Tensor, value: Tensor) -> "Splines":
        """Of every coordinate moved and every scenario."""
        first, *between, last = self.network
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        kept = value[..., self.kept]
        # The context's part of the first layer once a context, not once a scenario.
        of_kept, of_context = first.weight.split([kept.shape[-1], context.shape[-1]], 1)
        hidden = F.linear(context, of_context, first.bias).unsqueeze(1) + F.linear(kept, of_kept)
        for layer in between:
            hidden = layer(hidden)
        # Bins first: of every output its values at all scenarios.
        sizes = (-1, 3 * self.bins - 1)
        weight = last.weight.unflatten(0, sizes).transpose(0, 1).flatten(0, 1)
        bias = last.bias.unflatten(0, sizes).T.flatten()
        raw = torch.addmm(bias.unsqueeze(1), weight, hidden.flatten(0, -2).T)
        return Splines.of(
            *raw.unflatten(0, sizes[::-1]).split([self.bins, self.bins, self.bins - 1])
        )

    def _moved(self, value: Tensor) -> Tensor:
        """``(moved, B * M)``, what the splines are for."""
        return value[..., self.moved].flatten(0, -2).T

    def _with(self, value: Tensor, moved: Tensor) -> Tensor:
        there = moved.T.view(value[..., self.moved].shape)
        return torch.cat([value[..., self.kept], there], dim=-1)[..., self.order]


class _Piece(NamedTuple):
    """The bin that a value lies in.

    Attributes:
        inside: whether there is one.
        left, width: its first argument and its size.
        bottom, height: its first value and the size of its image.
        first, last: slopes at its ends.
    """

    inside: Tensor
    left: Tensor
    width: Tensor
    bottom: Tensor
    height: Tensor
    first: Tensor
    last: Tensor


class Splines(NamedTuple):
    """Monotonic functions on the line, one a value of ``...``.

    Attributes:
        widths, heights: ``(K, ...)``, shares of the bins in ``[-5, 5]`` and in its image.
        slopes: ``(K - 1, ...)``, logarithms at the inner knots; at the ends they are 0.
    """

    widths: Tensor
    heights: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, widths: Tensor, heights: Tensor, slopes: Tensor) -> "Splines":
        """From numbers without limits; zeros are the identity."""
        half = -math.log(_SLOPE) / 2
        across, up = (torch.softmax(log_slope(raw, half), 0) for raw in (widths, heights))
        return cls(across, up, log_slope(slopes))

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Image and logarithm of the slope, ``(...)`` each (equations 4 and 5)."""
        piece = self._piece(value, self.widths)
        slope = piece.height / piece.width
        share = torch.where(piece.inside, (value - piece.left) / piece.width, 0.0)
        rest = 1 - share
        product = share * rest
        below = slope + (piece.first + piece.last - 2 * slope) * product
        image = (
            piece.bottom + piece.height * (slope * share.square() + piece.first * product) / below
        )
        rise = 2 * slope * product + piece.first * rest.square() + piece.last * share.square()
        logarithm = (slope.square() * rise / below.square()).log()
        return (
            torch.where(piece.inside, image, value),
            torch.where(piece.inside, logarithm, 0.0),
        )

    def inverse(self, value: Tensor) -> Tensor:
        """Argument of an image, ``(...)`` (equations 6 to 8).

        With t the image's share of its bin and q = (1 - t) first - t last, the discriminant is
        ``q^2 + 4 slope^2 t (1 - t)`` times the bin's height squared: a sum without cancellation.
        """
        piece = self._piece(value, self.heights)
        slope = piece.height / piece.width
        above = torch.where(piece.inside, (value - piece.bottom) / piece.height, 0.0)
        rest = 1 - above
        tilt = piece.first * rest - piece.last * above
        root = (tilt.square() + 4 * slope.square() * (above * rest).clamp_min(0.0)).sqrt()
        low, high = 2 * slope * above, 2 * slope * rest
        share = torch.where(
            tilt < 0, (root - tilt) / (root - tilt + high), low / (low + tilt + root)
        )
        return torch.where(piece.inside, piece.left + share * piece.width, value)

    def _piece(self, value: Tensor, shares: Tensor) -> _Piece:
        """The bin of a value, of the axis that ``shares`` divide."""
        with torch.no_grad():
            beyond = shares.cumsum(0) < (value + _BOUND) / (2 * _BOUND)
            number = beyond.sum(0).clamp(max=len(shares) - 1)
            bins = torch.arange(len(shares), device=value.device).view(-1, *[1] * value.dim())
            at, below = (mask.to(value.dtype) for mask in (bins == number, bins < number))
        (left, width), (bottom, height) = (
            (2 * _BOUND * (axis * below).sum(0) - _BOUND, 2 * _BOUND * (axis * at).sum(0))
            for axis in (self.widths, self.heights)
        )
        first, last = ((self.slopes * there).sum(0).exp() for there in (at[1:], at[:-1]))
        return _Piece(value.abs() < _BOUND, left, width, bottom, height, first, last)
