"""Sums over many rows of the denoiser, differentiated in chunks, so that memory is flat.

A surrogate is a sum over B M k rows. Its graph would hold the activations of all of them; here each
chunk of rows is run, differentiated and forgotten, and the gradients that add up are handed to
autograd in one piece. The parts of the first layer that many rows share, of contexts and of
timesteps, are computed once outside and get the gradients of all their rows.

The backward pass of a chunk is written out (:class:`_Network`): the products of autograd, but weight
gradients add up where they are kept, and activations that have served are written over. All chunks
share one set of buffers, since fresh memory costs a CPU as much as the arithmetic on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_dfl.predictors.backbone import activation
from diffusion_dfl.predictors.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class Rows:
    """What the rows, an evaluation of the denoiser each, share.

    Attributes:
        features: context features ``(B, width)``, and ``context`` ``(R,)``, the row of each.
        times: time features ``(L, width)``, and ``time`` ``(R,)``, the row of each.
        squares: :meth:`Denoiser.shared_squares` of the contexts ``(B,)`` and the times ``(L,)``;
            only norms of gradients need them.
    """

    features: Tensor
    context: Tensor
    times: Tensor
    time: Tensor
    squares: tuple[Tensor, Tensor] | None = None


#: Outputs of some rows ``(r, d_y)`` -> their terms of the sum ``(r,)`` and these terms' derivatives in
#: the outputs ``(r, d_y)``.
Terms = Callable[[Tensor], tuple[Tensor, Tensor]]

#: A slice of rows -> their noisy outcomes ``(r, d_y)`` and their terms.
Summands = Callable[[slice], tuple[Tensor, Terms]]


def chunked_sum(
    denoiser: Denoiser,
    rows: Rows,
    summands: Summands,
    chunk_rows: int,
    squared_norms: Tensor | None = None,
) -> Tensor:
    """Sum over rows of a function of the denoiser's output, a scalar with the gradient of the sum.

    Args:
        denoiser: its parameters, ``rows.features`` and ``rows.times`` get gradients.
        rows: contexts and times it is evaluated at.
        summands: its inputs, which are constants, and the functions of its outputs.
        chunk_rows: rows whose activations are held at once.
        squared_norms: ``(R,)``, filled with the squared norm of the gradient of each summand in the
            denoiser's weights if given. A row passes each layer once, so the norm of its outer
            product of input and output gradient is the product of their norms. The inner layer of
            the time embedding, shared by rows, is left out.

    Raises:
        ValueError: ``squared_norms`` without ``rows.squares``.
    """
    count = len(rows.context)
    if squared_norms is not None and rows.squares is None:
        raise ValueError("squared_norms needs rows.squares: norms of what the rows share")
    network = _Network(denoiser, rows, min(chunk_rows, count), squared_norms)
    wanted, held = torch.is_grad_enabled(), None
    total = rows.features.new_zeros(())
    with torch.no_grad():
        for start in range(0, count, chunk_rows):
            part = slice(start, min(start + chunk_rows, count))
            noisy, terms = summands(part)
            noisy = denoiser.outcome_features(noisy)
            output = network.forward(noisy, part)
            values, derivatives = terms(output)
            total += values.sum()
            if wanted:
                # The first chunk is the largest.
                if held is None:
                    held = show_held(noisy, output, derivatives, *network.buffers)
                network.backward(derivatives, noisy, part)
    if not wanted:
        return total
    inputs = (rows.features, rows.times, *network.parameters)
    result: Tensor = _Injected.apply(total, network.gradients, *inputs)
    return result


class _Network:
    """:meth:`Denoiser.from_shared` of a chunk of rows and its backward pass.

    Attributes:
        parameters: the denoiser's that every row passes.
        gradients: of the context features, of the time features and of the parameters, so far.
        buffers: every hidden layer of a chunk, before and after its activation.
    """

    def __init__(
        self, denoiser: Denoiser, rows: Rows, size: int, squared_norms: Tensor | None
    ) -> None:
        layers = denoiser.row_layers()
        self.rows, self.squared_norms = rows, squared_norms
        self.dropout = denoiser.dropout if denoiser.training else 0.0
        self.activation = activation(denoiser.activation)
        self.weights = [layer.weight.detach() for layer in layers]
        self.biases = [layer.bias.detach() for layer in layers]
        self.parameters = denoiser.row_parameters()
        inputs = (rows.features, rows.times, *self.parameters)
        self.gradients = tuple(torch.zeros_like(value) for value in inputs)
        shape = (size, rows.features.shape[1])
        self.buffers = [rows.features.new_empty(shape) for _ in range(2 * len(layers) - 2)]
        self._masks: list[Tensor] = []
        self._first = rows.features.detach() + self.biases[0]
        self._times = rows.times.detach()

    def forward(self, noisy: Tensor, part: slice) -> Tensor:
        """Outputs ``(r, d_y)``; activations stay in the buffers."""
        hidden, active, *_ = kept = self._kept(len(noisy))
        torch.index_select(self._first, 0, self.rows.context[part], out=hidden)
        hidden += torch.index_select(self._times, 0, self.rows.time[part], out=active)
        hidden.addmm_(noisy, self.weights[0].t())
        self._masks.clear()
        for layer in range(1, len(self.weights)):
            hidden, active = kept[2 * layer - 2 : 2 * layer]
            self.activation.into(hidden, active)
            if self.dropout:
                self._masks.append(F.dropout(torch.ones_like(active), self.dropout))
                active *= self._masks[-1]
            following = kept[2 * layer] if layer < len(self.weights) - 1 else None
            output = torch.addmm(self.biases[layer], active, self.weights[layer].t(), out=following)
        return output

    def backward(self, gradient: Tensor, noisy: Tensor, part: slice) -> None:
        """Add what the gradient of the outputs ``(r, d_y)`` of the last chunk gives."""
        kept = self._kept(len(noisy))
        norms = None if self.squared_norms is None else self.squared_norms[part].zero_()
        for layer in range(len(self.weights) - 1, 0, -1):
            hidden, active = kept[2 * layer - 2 : 2 * layer]
            self._add(layer, gradient, active, norms)
            # The activation has served: its memory takes the gradient.
            gradient = torch.mm(gradient, self.weights[layer], out=active)
            if self.dropout:
                gradient *= self._masks[layer - 1]
            self.activation.backward(gradient, hidden)
        self._add(0, gradient, noisy, norms)
        context, time = self.rows.context[part], self.rows.time[part]
        self.gradients[0].index_add_(0, context, gradient)
        self.gradients[1].index_add_(0, time, gradient)
        if norms is not None:
            assert self.rows.squares is not None
            shared = self.rows.squares[0][context] + self.rows.squares[1][time]
            norms += shared * gradient.square().sum(-1)

    def _kept(self, count: int) -> list[Tensor]:
        return [buffer[:count] for buffer in self.buffers]

    def _add(self, layer: int, gradient: Tensor, inputs: Tensor, norms: Tensor | None) -> None:
        """A linear layer's gradients, and ``(|input|^2 + 1) |output gradient|^2`` a row."""
        self.gradients[2 + 2 * layer].addmm_(gradient.t(), inputs)
        self.gradients[3 + 2 * layer].add_(gradient.sum(0))
        if norms is not None:
            norms += (inputs.square().sum(-1) + 1.0) * gradient.square().sum(-1)


def show_held(*tensors: Tensor) -> Tensor:
    """Tell saved-tensor hooks of tensors held without autograd, for as long as the result lives."""
    anchor = tensors[0].new_zeros((), requires_grad=True)
    with torch.enable_grad():
        result: Tensor = _Held.apply(anchor, *tensors)
    return result


class _Held(torch.autograd.Function):
    """The identity on a number; its node saves the other tensors."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return anchor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, *[None] * len(ctx.needs_input_grad[1:])


class _Injected(torch.autograd.Function):
    """A scalar whose gradient in its inputs is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:
        # Gradients, not activations: every step holds them, so they are not saved tensors.
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("the gradient of a chunked sum can be taken once")
        ctx.gradients = None
        # In place: the tensors become the parameters' gradients, without a copy.
        return None, None, *(gradient.mul_(upstream) for gradient in gradients)


class TrustRegion:
    """Leaves out rows whose error the trust region no longer lets grow, and counts them.

    A positive weight makes its row less likely; nothing bounds how far. The comparison uses values
    only: within the region the gradient is untouched.
    """

    def __init__(self, limit: float, rows: int, device: torch.device) -> None:
        self.limit, self.rows = limit, rows
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def weights(self, weight: Tensor, error: Tensor) -> Tensor:
        """``weight`` ``(r,)``, 0 where ``error`` ``(r,)`` is outside the region."""
        if not self.limit:
            return weight
        beyond = (weight > 0) & (error.detach() > self.limit)
        self.count += beyond.sum()
        return weight.masked_fill(beyond, 0.0)

    def share(self) -> Tensor:
        return self.count / max(self.rows, 1)
