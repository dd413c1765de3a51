"""Scenarios in pairs: each is of the predictor's law, and their mean has hardly any noise."""

import math
from functools import cache, partial
from typing import Any

import pytest
import torch

import diffusion_dfl as ddfl
from diffusion_dfl.estimators.pairs import check_pair
from diffusion_dfl.predictors.noise import scenario_noise

torch.set_num_threads(1)
SMALL = {"width": 16, "layers": 1}
KINDS = {
    "gaussian": partial(ddfl.GaussianPredictor, **SMALL, antithetic_scenarios=True),
    "flow": partial(ddfl.FlowPredictor, **SMALL, antithetic_scenarios=True),
    "diffusion": partial(
        ddfl.DiffusionPredictor,
        **SMALL,
        num_diffusion_steps=50,
        sampling=ddfl.Sampling(10, antithetic_scenarios=True),
    ),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return scenario_noise(shape, seeded(0), torch.device("cpu"), antithetic=True)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_neighbours_have_opposite_noise_and_an_odd_one_is_alone(count: int) -> None:
    made = noise(3, count, 4)
    assert made.shape == (3, count, 4)
    paired = made[:, : count // 2 * 2].unflatten(1, (-1, 2))
    assert torch.equal(paired[:, :, 0], -paired[:, :, 1])
    assert made.unique().numel() == 3 * 4 * count


def test_every_scenario_is_of_the_law() -> None:
    made = noise(40_000, 3, 2)
    for values in made.permute(1, 2, 0).flatten(0, 1):
        assert abs(float(values.mean())) < 4 / math.sqrt(len(values))
        assert float(values.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / 40_000))


@cache
def fitted(kind: Any, seed: int = 0) -> tuple[ddfl.Predictor, torch.Tensor]:
    """A predictor a few steps into its fit to correlated normal outcomes."""
    torch.manual_seed(seed)
    context = torch.randn(512, 2)
    shape = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    outcome = 3 + context + torch.randn(512, 2) @ shape.T
    predictor: ddfl.Predictor = kind(2, 2)
    predictor.fit_scaling(context, outcome)
    optimiser = torch.optim.Adam(predictor.parameters(), 1e-2)
    generator = seeded(0)
    for _ in range(150):
        optimiser.zero_grad()
        predictor.loss(context, outcome, generator).backward()
        optimiser.step()
    return predictor.eval(), context[:8]


@pytest.mark.parametrize("name", KINDS)
def test_the_mean_of_few_scenarios_is_nearer_that_of_many(name: str) -> None:
    predictor, context = fitted(KINDS[name])
    generator = seeded(1)
    many = predictor.sample(context, 20_000, generator).mean(1)
    spread = predictor.sample(context, 20_000, generator).std(1)
    found = torch.stack([predictor.sample(context, 50, generator).mean(1) for _ in range(40)])
    error = (found - many).square().mean().sqrt() / spread.mean()
    # Of independent scenarios: 1 / sqrt(50) = .141.
    assert error < {"gaussian": 0.01, "flow": 0.05, "diffusion": 0.05}[name]


@pytest.mark.parametrize("name", KINDS)
def test_a_beginning_of_even_length_is_of_whole_pairs_whatever_follows(name: str) -> None:
    predictor, context = fitted(KINDS[name])
    drawn = predictor.sample(context, 500, seeded(1))
    many, spread = drawn.mean(1), drawn.std(1).mean()
    assert (drawn[:, :50].mean(1) - many).abs().max() < 0.4 * spread
    steps = predictor.sample(context, 4, seeded(2))
    middle = steps.unflatten(1, (-1, 2)).mean(2)
    # The middle of a pair lies near the mean, from wherever it was drawn.
    assert (middle - many.unsqueeze(1)).abs().mean() < 0.25 * spread


def test_a_score_of_sets_refuses_pairs_whose_scores_cancel() -> None:
    predictor = ddfl.GaussianPredictor(2, 2, **SMALL, antithetic_scenarios=True)
    with pytest.raises(ValueError, match="antithetic_scenarios=true: the scores of a pair"):
        check_pair(predictor, ddfl.SetScore(4))
    check_pair(predictor, ddfl.Score(4))


def test_paths_of_a_diffusion_are_in_pairs_too() -> None:
    predictor, context = fitted(
        partial(
            ddfl.DiffusionPredictor,
            **SMALL,
            num_diffusion_steps=50,
            sampling=ddfl.Sampling(
                5, sampler="ancestral", final_noise=True, antithetic_scenarios=True
            ),
        )
    )
    assert isinstance(predictor, ddfl.DiffusionPredictor)
    path = predictor.sample_path(context, 6, seeded(1))
    start = path.states[0].unflatten(1, (-1, 2))
    assert torch.equal(start[:, :, 0], -start[:, :, 1])
    scenarios = predictor.sample(context, 6, seeded(1))
    assert torch.equal(scenarios, path.scenarios)
