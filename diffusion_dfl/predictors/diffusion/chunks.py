"""Sums over many rows of the denoiser, differentiated in chunks, so that memory is flat.

A surrogate is a sum over B M k rows. Its graph would hold the activations of all of them; here each
chunk of rows is run, differentiated and forgotten, and the gradients that add up are handed to
autograd in one piece. The parts of the first layer that many rows share, of contexts and of
timesteps, are computed once outside and get the gradients of all their rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_dfl.predictors.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class Rows:
    """Inputs of the denoiser, a row an evaluation.

    Attributes:
        noisy: ``(R, d_y)``.
        features: context features ``(B, width)``, and ``context`` ``(R,)``, the row of each.
        times: time features ``(L, width)``, and ``time`` ``(R,)``, the row of each.
        squares: :meth:`Denoiser.shared_squares` of the contexts ``(B,)`` and the times ``(L,)``;
            only norms of gradients need them.
    """

    noisy: Tensor
    features: Tensor
    context: Tensor
    times: Tensor
    time: Tensor
    squares: tuple[Tensor, Tensor] | None = None


#: ``(output (r, d_y), rows as a slice) -> values (r,)``, whose sum is differentiated.
RowValues = Callable[[Tensor, slice], Tensor]


def chunked_sum(
    denoiser: Denoiser,
    rows: Rows,
    values: RowValues,
    chunk_rows: int,
    squared_norms: Tensor | None = None,
) -> Tensor:
    """``sum_r values_r(denoiser(row_r))``, a scalar with the gradient of the sum.

    Args:
        denoiser: its parameters, ``rows.features`` and ``rows.times`` get gradients.
        rows: what it is evaluated on; ``noisy`` is a constant.
        values: the summands, from the outputs of a slice of rows.
        chunk_rows: rows whose activations are held at once.
        squared_norms: ``(R,)``, filled with the squared norm of the gradient of each summand in the
            denoiser's weights if given. A row passes each layer once, so the norm of its outer
            product of input and output gradient is the product of their norms. The inner layer of
            the time embedding, shared by rows, is left out.

    Raises:
        ValueError: ``squared_norms`` without ``rows.squares``.
    """
    count = len(rows.noisy)
    if squared_norms is not None and rows.squares is None:
        raise ValueError("squared_norms needs rows.squares: norms of what the rows share")
    if not torch.is_grad_enabled():
        parts = [
            values(_run(denoiser, rows, part)[0], part).sum() for part in _slices(count, chunk_rows)
        ]
        return torch.stack(parts).sum()
    parameters = [weight for weight in denoiser.row_parameters() if weight.requires_grad]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    features_gradient = torch.zeros_like(rows.features)
    times_gradient = torch.zeros_like(rows.times)
    total = rows.noisy.new_zeros(())
    for part in _slices(count, chunk_rows):
        with torch.enable_grad(), _Capture(denoiser, squared_norms is not None) as capture:
            output, shared = _run(denoiser, rows, part)
            value = values(output, part).sum()
            wanted = [shared, *parameters, *capture.outputs]
            found = torch.autograd.grad(value, wanted, allow_unused=True)
        total += value.detach()
        features_gradient.index_add_(0, rows.context[part], found[0])
        times_gradient.index_add_(0, rows.time[part], found[0])
        for gradient, addend in zip(gradients, found[1 : 1 + len(parameters)], strict=True):
            if addend is not None:
                gradient += addend
        if squared_norms is not None:
            squared_norms[part] = _first_squares(rows, part) * found[0].square().sum(-1)
            squared_norms[part] += capture.squared_norms(found[1 + len(parameters) :])
    inputs = (rows.features, rows.times, *parameters)
    result: Tensor = _Injected.apply(
        total, (features_gradient, times_gradient, *gradients), *inputs
    )
    return result


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _run(denoiser: Denoiser, rows: Rows, part: slice) -> tuple[Tensor, Tensor]:
    """Output of the denoiser on a slice, and the shared part of its first layer."""
    shared = rows.features.detach()[rows.context[part]] + rows.times.detach()[rows.time[part]]
    if torch.is_grad_enabled():
        shared.requires_grad_()
    return denoiser.from_shared(rows.noisy[part], shared), shared


def _first_squares(rows: Rows, part: slice) -> Tensor:
    """Squared norms of all that enters the first layer, with a 1 for each bias, ``(r,)``."""
    assert rows.squares is not None
    of_contexts, of_times = rows.squares
    shared = of_contexts[rows.context[part]] + of_times[rows.time[part]]
    return rows.noisy[part].square().sum(-1) + 1.0 + shared


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


class _Capture:
    """Inputs and outputs of the denoiser's linear layers after the first while it runs."""

    def __init__(self, denoiser: Denoiser, active: bool) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self._layers = denoiser.row_layers()[1:] if active else []
        self._handles: list[Any] = []

    def __enter__(self) -> "_Capture":
        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.inputs.append(inputs[0].detach())
            self.outputs.append(output)

        self._handles = [layer.register_forward_hook(keep) for layer in self._layers]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def squared_norms(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """``sum over layers (|input|^2 + 1) |output gradient|^2``, a number a row."""
        norms = [
            (value.square().sum(-1) + 1.0) * gradient.square().sum(-1)
            for value, gradient in zip(self.inputs, gradients, strict=True)
        ]
        return torch.stack(norms).sum(0)
