"""The laboratory's own arithmetic, on gradients whose spread is known."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from laboratory import power, variance
from laboratory.common import cosine, draws, jackknife_ratio, spread

from diffusion_dfl.errors import UserError
from diffusion_dfl.predictors import DiffusionPredictor
from diffusion_dfl.predictors.diffusion import Elbo, Sampling


def test_the_ratio_of_spreads_is_that_of_the_variances_within_its_error() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = 2.0 * torch.randn(400, 50, generator=generator)
    narrow = torch.randn(400, 50, generator=generator)
    ratio, error = jackknife_ratio(wide, narrow)
    assert spread(narrow) == pytest.approx(50.0, rel=0.05)
    assert abs(ratio - 4.0) < 4 * error
    assert 0.01 < error < 0.3


@pytest.mark.slow
def test_every_scheme_of_the_table_is_unbiased_on_a_small_network() -> None:
    torch.manual_seed(0)
    predictor = DiffusionPredictor(
        2, 3, 8, 1, num_diffusion_steps=20, sampling=Sampling(4, sampler="ancestral")
    ).eval()
    context, scenarios = torch.randn(2, 2), torch.randn(2, 5, 3)
    weights = torch.randn(2, 5)

    def value(generator: torch.Generator) -> torch.Tensor:
        return predictor.weighted_log_density(context, scenarios, weights, generator).value

    means = {}
    for name, scheme in variance.SCHEMES.items():
        surrogate = replace(scheme, num_elbo_timesteps=4)
        predictor.elbo = Elbo(predictor.schedule, predictor.sampler, surrogate)
        if predictor.elbo.uses_history:
            draws(predictor, value, range(5000, 5020))
        means[name] = draws(predictor, value, range(300)).mean(0)
    for name, mean in means.items():
        assert cosine(mean, means["uniform"]) > 0.95, name


def test_every_point_of_the_power_table_has_an_estimator_and_a_cost() -> None:
    predictor = DiffusionPredictor(2, 3, 8, 1, sampling=Sampling(10))
    for points in power.POINTS.values():
        for point in points:
            power._estimator(point)
            assert power._row_evaluations(predictor, point) > 0
    base = power.BASE
    # 10 steps forward for each of 100 scenarios, 2 evaluations with their backward pass.
    assert power._row_evaluations(predictor, base) == 10 * 100 + 3 * 2 * 100


def test_weights_that_are_missing_are_asked_for_by_command(tmp_path: Path) -> None:
    from laboratory.common import trained_power

    with pytest.raises(UserError, match=r"python train.py model=diffusion grad=two_stage"):
        trained_power(tmp_path, 4)
