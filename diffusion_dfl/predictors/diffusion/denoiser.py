"""The denoising network: a perceptron on noisy outcome, time and context (Table 2)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from diffusion_dfl.predictors.backbone import ActivationName, activation, hidden_layer
from diffusion_dfl.sizes import check_sizes

Prediction = Literal["epsilon", "x0", "v"]

_EMBEDDING_SIZE = 16
_TIME_WIDTH = 64
# Rows of one block on a CPU: half a megabyte of activations at a width of 256.
_CACHED_ROWS = 512


class Denoiser(nn.Module):
    """Predicts the noise of ``y_t`` given step and context.

    The first layer is a sum of three parts, of ``y_t``, of the time and of the context, so the
    context's part (:meth:`context_features`) is computed once a context, not once a scenario
    and step.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        width: units a hidden layer.
        layers: hidden layers, at least 1.
        dropout: share of hidden units dropped in training.
        num_steps: T, the scale of the time embedding.
        activation: of the hidden layers; that of the time embedding is SiLU (Table 2).
        outcome_frequencies: F; the first layer sees ``sin(f y)`` and ``cos(f y)``, f = 1..F, beside every
            noisy outcome y (Tancik et al., 2020). A perceptron learns the smooth part of a function
            first, and a conditional density of sharp modes is forgotten for the rows' own contexts
            before it is learned. 0 for y alone.

    Raises:
        ValueError: no unit or layer, an unknown activation, or frequencies below 0.
    """

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        width: int,
        layers: int,
        dropout: float,
        num_steps: int,
        activation: ActivationName = "silu",
        outcome_frequencies: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, layers=layers)
        check_sizes(0, outcome_frequencies=outcome_frequencies)
        self.frequencies = range(1, outcome_frequencies + 1)
        self.num_steps, self.dropout, self.activation = num_steps, dropout, activation
        self.from_outcome = nn.Linear(outcome_size * (1 + 2 * outcome_frequencies), width)
        self.from_context = nn.Linear(context_size, width, bias=False)
        self.from_time = nn.Sequential(
            nn.Linear(_EMBEDDING_SIZE, _TIME_WIDTH), nn.SiLU(), nn.Linear(_TIME_WIDTH, width)
        )
        hidden = hidden_layer(activation, dropout)
        for _ in range(layers - 1):
            hidden += [nn.Linear(width, width), *hidden_layer(activation, dropout)]
        self.trunk = nn.Sequential(*hidden, nn.Linear(width, outcome_size))

    def outcome_features(self, noisy: Tensor) -> Tensor:
        """What the first layer sees of noisy outcomes ``(..., d_y)``."""
        if not self.frequencies:
            return noisy
        waves = [wave(f * noisy) for f in self.frequencies for wave in (torch.sin, torch.cos)]
        return torch.cat([noisy, *waves], dim=-1)

    def context_features(self, context: Tensor) -> Tensor:
        """The context's part of the first layer: ``(B, d_x) -> (B, width)``."""
        return self.from_context(context)

    def time_features(self, steps: Tensor) -> Tensor:
        """The time's part of the first layer: integer steps ``(...)`` -> ``(..., width)``."""
        return self.from_time(self._embedding(steps))

    def _embedding(self, steps: Tensor) -> Tensor:
        # Steps are measured on a scale of 1000, so that the embedding means the same for any T.
        place = steps.to(torch.float32) * (1000.0 / self.num_steps)
        half = _EMBEDDING_SIZE // 2
        exponents = torch.arange(half, device=steps.device, dtype=torch.float32) / half
        angles = place.unsqueeze(-1) * torch.exp(-math.log(10000.0) * exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    @torch.no_grad()
    def shared_squares(self, context: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Squared norms of what enters the first layer with contexts and times, ``(B,)``, ``(L,)``.

        Times the squared gradient in the layer's output they are the squared gradient in its
        weights; the 1 of the bias is counted with the times.
        """
        hidden = self.from_time[:-1](self._embedding(steps))
        return context.square().sum(-1), hidden.square().sum(-1) + 1.0

    def forward(self, noisy: Tensor, time_features: Tensor, context_features: Tensor) -> Tensor:
        """Output of the network, ``(..., d_y)``; the three inputs broadcast."""
        shared = time_features + context_features
        blocks = noisy.dim() == shared.dim() == 3 and shared.shape[1] == 1
        if torch.is_grad_enabled() or not blocks or (self.training and self.dropout):
            return self.from_shared(noisy, shared)
        return self._without_graph(noisy, shared)

    def from_shared(self, noisy: Tensor, shared: Tensor) -> Tensor:
        """Output of the network, given the sum of time and context features."""
        return self.trunk(self.from_outcome(self.outcome_features(noisy)) + shared)

    def _without_graph(self, noisy: Tensor, shared: Tensor) -> Tensor:
        """The same for ``(B, M, d_y)`` and ``(B or 1, 1, width)``, written over and over.

        On a CPU a few contexts at a time, so that activations stay in its cache: fresh memory costs
        as much as the arithmetic on it.
        """
        batch, count = noisy.shape[:2]
        size = max(_CACHED_ROWS // max(count, 1), 1) if noisy.device.type == "cpu" else batch
        first, *inner, last = self.row_layers()
        activate = activation(self.activation).into
        shared = shared.expand(batch, -1, -1)
        output = noisy.new_empty(batch, count, last.out_features)
        buffers = noisy.new_empty(2, min(size, batch) * count, first.out_features)
        blocks = (noisy.split(size), shared.split(size), output.split(size))
        for block, offset, target in zip(*blocks, strict=True):
            rows = self.outcome_features(block.reshape(-1, block.shape[-1]))
            hidden, other = buffers[:, : len(rows)]
            torch.addmm(first.bias, rows, first.weight.t(), out=hidden)
            hidden.view(len(block), count, -1).add_(offset)
            for layer in inner:
                activate(hidden, hidden)
                torch.addmm(layer.bias, hidden, layer.weight.t(), out=other)
                hidden, other = other, hidden
            activate(hidden, hidden)
            torch.addmm(last.bias, hidden, last.weight.t(), out=target.view(len(rows), -1))
        return output

    def row_layers(self) -> list[nn.Linear]:
        """The linear layers every row passes on its own."""
        trunk = [module for module in self.trunk if isinstance(module, nn.Linear)]
        return [self.from_outcome, *trunk]

    def row_parameters(self) -> list[nn.Parameter]:
        """Their parameters; the rest, of contexts and timesteps, is shared by rows."""
        return [parameter for layer in self.row_layers() for parameter in layer.parameters()]


def to_clean(
    prediction: Prediction, output: Tensor, noisy: Tensor, signal: Tensor, noise: Tensor
) -> Tensor:
    """The clean outcome y_0 that a network output implies, all ``(..., d_y)`` or broadcasting.

    ``y_t = signal y_0 + noise eps``; the output is eps, y_0 or ``v = signal eps - noise y_0``
    (Salimans and Ho, 2022).
    """
    if prediction == "epsilon":
        return torch.addcmul(noisy, noise, output, value=-1).div_(signal)
    if prediction == "x0":
        return output
    return signal * noisy - noise * output


def clean_slope(prediction: Prediction, signal: Tensor, noise: Tensor) -> Tensor:
    """Derivative of :func:`to_clean` in the network output."""
    if prediction == "epsilon":
        return -noise / signal
    if prediction == "x0":
        return torch.ones_like(signal)
    return -noise


def to_target(
    prediction: Prediction, clean: Tensor, epsilon: Tensor, signal: Tensor, noise: Tensor
) -> Tensor:
    """What the network should output for a clean outcome and the noise added to it."""
    if prediction == "epsilon":
        return epsilon
    if prediction == "x0":
        return clean
    return signal * epsilon - noise * clean


def epsilon_error_scale(prediction: Prediction, signal: Tensor, noise: Tensor) -> Tensor:
    """Factor from an error of the output to the error of the noise it implies."""
    if prediction == "epsilon":
        return torch.ones_like(signal)
    if prediction == "x0":
        return signal / noise
    return signal
