"""The diffusion predictor: its loss, its scenarios and the units of both."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors import DiffusionPredictor, GaussianPredictor, Predictor, Sampling
from tests.configs import by_keys

STEPS = 8


def _predictor(**knobs: object) -> DiffusionPredictor:
    torch.manual_seed(0)
    knobs = {"num_diffusion_steps": STEPS, "num_sampling_steps": 3, **knobs}
    predictor: DiffusionPredictor = by_keys(DiffusionPredictor, 2, 1, width=8, layers=1, **knobs)
    generator = torch.Generator().manual_seed(1)
    predictor.fit_scaling(
        torch.randn(50, 2, generator=generator), 4 + 3 * torch.randn(50, 1, generator=generator)
    )
    return predictor.eval()


def _noise_errors(predictor: DiffusionPredictor, context: Tensor, clean: float) -> list[float]:
    """``E |eps - eps_theta(y_t, t, x)|^2`` of every step, by Gauss-Hermite quadrature."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    epsilon = torch.as_tensor(nodes, dtype=torch.float32).unsqueeze(-1)
    shares = torch.as_tensor(shares / math.sqrt(2 * math.pi))
    features = predictor.denoiser.context_features(predictor.contexts(context))
    errors = []
    for t in range(1, STEPS + 1):
        bar = float(predictor.schedule.alpha_bar[t].double())
        signal, noise = math.sqrt(bar), math.sqrt(1 - bar)
        noisy = signal * clean + noise * epsilon
        output = predictor.denoiser(
            noisy, predictor.denoiser.time_features(torch.tensor(t)), features
        )
        implied = {
            "epsilon": output,
            "x0": (noisy - signal * output) / noise,
            "v": noise * noisy + signal * output,
        }[predictor.prediction]
        errors.append(float((shares * (implied - epsilon).square().squeeze(-1).double()).sum()))
    return errors


def test_the_loss_is_the_denoising_error_averaged_over_the_schedule() -> None:
    predictor = _predictor()
    context, clean = torch.tensor([[0.3, -1.2]]), 0.8
    outcome = predictor.outcomes.inverse(torch.tensor([[clean]]))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        values = torch.stack(
            [
                predictor.loss(context.expand(64, -1), outcome.expand(64, -1), generator)
                for _ in range(400)
            ]
        ).double()
        expected = sum(_noise_errors(predictor, context, clean)) / STEPS
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / math.sqrt(400)


def test_a_trained_sampler_follows_the_data() -> None:
    """y = 10 + 2 x + noise comes out as such."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2000, 1, generator=generator) * 2 - 1
    y = 10 + 2 * x + 0.5 * torch.randn(2000, 1, generator=generator)
    sampling = Sampling(num_sampling_steps=20)
    predictor = DiffusionPredictor(1, 1, width=64, layers=2, sampling=sampling)
    predictor.fit_scaling(x, y)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=3e-3)
    for _ in range(400):
        rows = torch.randint(2000, (256,), generator=generator)
        optimizer.zero_grad()
        predictor.loss(x[rows], y[rows], generator).backward()
        optimizer.step()
    draws = predictor.eval().sample(torch.tensor([[-0.8], [0.8]]), 2000, generator)[..., 0]
    torch.testing.assert_close(draws.mean(1), torch.tensor([8.4, 11.6]), rtol=0, atol=0.2)
    assert bool(((draws.std(1) > 0.35) & (draws.std(1) < 0.7)).all())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_sampling_steps": 9}, "num_sampling_steps=9"),
        ({"num_elbo_timesteps": 9}, "num_elbo_timesteps=9"),
        ({"num_elbo_timesteps": 0}, "num_elbo_timesteps=0"),
        ({"prediction": "noise"}, "prediction='noise'"),
        ({"elbo_timesteps": "random"}, "elbo_timesteps='random'"),
        ({"schedule": "sqrt"}, "schedule='sqrt'"),
        ({"outcome_scaling": "local"}, "outcome_scaling='local'"),
        ({"spacing": "log"}, "spacing='log'"),
        ({"chunk_rows": 0}, "chunk_rows=0"),
        ({"eta": 1.1}, r"eta=1\.1"),
        ({"sampler": "heun"}, "sampler='heun'"),
        ({"variance": "learned"}, "variance='learned'"),
        ({"elbo_weighting": "vlb", "eta": 0.0}, "elbo_weighting=vlb"),
        ({"elbo_mixing": 2.0}, r"elbo_mixing=2\.0"),
        ({"elbo_steps": "sampler", "num_elbo_timesteps": 4}, "num_sampling_steps=3"),
        ({"final_noise": True, "sampler": "dpm_solver"}, "final_noise=true"),
    ],
)
def test_senseless_values_are_refused_by_name(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _predictor(**knobs)


@pytest.mark.parametrize("scaling", ["global", "residual"])
def test_scenarios_move_with_the_units_of_the_outcomes(scaling: str) -> None:
    """Outcomes in other units change nothing but the units of the scenarios."""
    context = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    draws = []
    for shift, factor in ((0.0, 1.0), (100.0, 7.0)):
        torch.manual_seed(0)
        predictor = DiffusionPredictor(
            2,
            1,
            width=8,
            layers=1,
            num_diffusion_steps=STEPS,
            sampling=Sampling(num_sampling_steps=3),
            outcome_scaling=scaling,  # type: ignore[arg-type]
        ).eval()
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(50, 2, generator=generator), torch.randn(50, 1, generator=generator)
        for part in (predictor, *(predictor.base.members if predictor.base is not None else ())):
            assert isinstance(part, Predictor)
            part.fit_scaling(rows[0], shift + factor * rows[1])
        draws.append(predictor.sample(context, 4, torch.Generator().manual_seed(2)))
    torch.testing.assert_close(draws[1], 100 + 7 * draws[0], rtol=1e-4, atol=1e-3)


def test_the_base_of_residual_scaling_is_fixed_and_sets_place_and_width() -> None:
    predictor = _predictor(outcome_scaling="residual", base_folds=1)
    assert predictor.base is not None
    (member,) = predictor.base.members
    assert isinstance(member, GaussianPredictor)
    head = member.network[-1]
    context = torch.zeros(3, 2)
    before = predictor.sample(context, 500, torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, spread = (value.clone() for value in predictor.base(context))
        head.bias += torch.tensor([50.0, 0.0])
        after = predictor.sample(context, 500, torch.Generator().manual_seed(0))
    torch.testing.assert_close(after, before + 50.0, rtol=1e-4, atol=1e-4)
    # In units of the base's spread the scenarios do not depend on it.
    with torch.no_grad():
        head.bias += torch.tensor([-50.0, -1.0])
        narrower = predictor.sample(context, 500, torch.Generator().manual_seed(0))
        scale = predictor.base(context).scale / spread
    torch.testing.assert_close(
        narrower - mean.unsqueeze(1),
        scale.unsqueeze(1) * (before - mean.unsqueeze(1)),
        rtol=1e-3,
        atol=1e-4,
    )
    predictor.loss(context, torch.zeros(3, 1), torch.Generator()).backward()
    assert all(parameter.grad is None for parameter in predictor.base.parameters())
