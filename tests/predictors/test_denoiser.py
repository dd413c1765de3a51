"""The denoising network and the three things it may predict."""

import pytest
import torch
from torch import nn

from diffusion_dfl.predictors.diffusion import Denoiser, NoiseSchedule
from diffusion_dfl.predictors.diffusion.denoiser import (
    Prediction,
    epsilon_error_scale,
    to_clean,
    to_target,
)


def _denoiser(num_steps: int = 1000, layers: int = 2) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(5, 3, 16, layers, 0.0, num_steps).eval()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_first_layer_in_parts_is_one_layer_on_everything_joined(layers: int) -> None:
    network = _denoiser(layers=layers)
    noisy, context = torch.randn(4, 7, 3), torch.randn(4, 5)
    steps = torch.randint(1, 1001, (4, 7))
    parts = network(
        noisy, network.time_features(steps), network.context_features(context).unsqueeze(1)
    )

    place = steps.float().unsqueeze(-1) * torch.exp(
        -torch.log(torch.tensor(1e4)) * torch.arange(8) / 8
    )
    hidden = network.from_time[:2](torch.cat([place.cos(), place.sin()], -1))
    joined = torch.cat([noisy, hidden, context.unsqueeze(1).expand(-1, 7, -1)], dim=-1)
    first = nn.Linear(3 + 64 + 5, 16)
    last = network.from_time[2]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        first.weight.copy_(
            torch.cat([network.from_outcome.weight, last.weight, network.from_context.weight], 1)
        )
        first.bias.copy_(network.from_outcome.bias + last.bias)
    torch.testing.assert_close(parts, network.trunk(first(joined)), rtol=1e-4, atol=1e-5)


def test_the_context_once_gives_the_numbers_of_the_context_repeated() -> None:
    network = _denoiser()
    noisy, context = torch.randn(4, 7, 3), torch.randn(4, 5)
    time = network.time_features(torch.tensor(17))
    once = network(noisy, time, network.context_features(context).unsqueeze(1))
    repeated = network(
        noisy.reshape(28, 3), time, network.context_features(context.repeat_interleave(7, 0))
    )
    torch.testing.assert_close(once.reshape(28, 3), repeated, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_output_depends_on_outcome_time_and_context() -> None:
    network = _denoiser()
    noisy, context, steps = torch.randn(1, 3), torch.randn(1, 5), torch.tensor([10])
    base = network(noisy, network.time_features(steps), network.context_features(context))
    for changed in (
        network(noisy + 1, network.time_features(steps), network.context_features(context)),
        network(noisy, network.time_features(steps + 400), network.context_features(context)),
        network(noisy, network.time_features(steps), network.context_features(context + 1)),
    ):
        assert float((changed - base).abs().max()) > 1e-3


def test_time_means_the_same_share_of_any_schedule() -> None:
    long, short = _denoiser(1000), _denoiser(50)
    torch.testing.assert_close(
        long.time_features(torch.tensor([20, 500, 1000])),
        short.time_features(torch.tensor([1, 25, 50])),
    )


def test_a_denoiser_without_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="layers=0"):
        Denoiser(5, 3, 16, 0, 0.0, 10)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
class TestPrediction:
    """The algebra of what the network outputs, for every step of a schedule."""

    def _draw(self) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(1)
        schedule = NoiseSchedule("linear", 100).double()
        steps = torch.arange(1, 100)
        signal = schedule.signal(steps).unsqueeze(-1)
        noise = schedule.noise(steps).unsqueeze(-1)
        clean = torch.randn(99, 3, dtype=torch.float64, generator=generator)
        epsilon = torch.randn(99, 3, dtype=torch.float64, generator=generator)
        return signal, noise, clean, epsilon, signal * clean + noise * epsilon

    def test_the_target_implies_the_clean_outcome(self, prediction: Prediction) -> None:
        signal, noise, clean, epsilon, noisy = self._draw()
        target = to_target(prediction, clean, epsilon, signal, noise)
        torch.testing.assert_close(
            to_clean(prediction, target, noisy, signal, noise), clean, rtol=1e-6, atol=1e-6
        )

    def test_an_error_of_the_output_is_the_stated_error_of_the_noise(
        self, prediction: Prediction
    ) -> None:
        signal, noise, clean, epsilon, noisy = self._draw()
        error = 0.1 + clean.sin()
        output = to_target(prediction, clean, epsilon, signal, noise) + error
        implied_clean = to_clean(prediction, output, noisy, signal, noise)
        implied_epsilon = (noisy - signal * implied_clean) / noise
        stated = epsilon_error_scale(prediction, signal, noise) * error
        torch.testing.assert_close(
            (implied_epsilon - epsilon).abs(), stated.abs(), rtol=1e-4, atol=1e-5
        )
