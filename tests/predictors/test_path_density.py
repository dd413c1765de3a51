"""The density of a sampled reverse path: a product of normal densities, and its score unbiased."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors import DiffusionPredictor
from diffusion_dfl.predictors.diffusion import ScenarioPath
from tests.configs import by_keys

STOCHASTIC = [
    {"sampler": "ddim", "eta": 1.0},
    {"sampler": "ddim", "eta": 0.4},
    {"sampler": "ancestral", "variance": "beta"},
    {"sampler": "ancestral", "variance": "posterior"},
]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _predictor(size: int = 2, **knobs: object) -> DiffusionPredictor:
    torch.manual_seed(0)
    knobs = {
        "num_diffusion_steps": 20,
        "num_sampling_steps": 4,
        "final_noise": True,
        "layers": 1,
        **knobs,
    }
    predictor: DiffusionPredictor = by_keys(DiffusionPredictor, 2, size, width=8, **knobs)
    predictor.fit_scaling(
        torch.randn(50, 2, generator=_generator(1)),
        4 + 3 * torch.randn(50, size, generator=_generator(2)),
    )
    return predictor.eval()


def _parameters(predictor: DiffusionPredictor) -> list[Tensor]:
    return [weight for weight in predictor.parameters() if weight.requires_grad]


def _gradient(predictor: DiffusionPredictor, value: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, _parameters(predictor))])


def _plain(
    predictor: DiffusionPredictor, context: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``log p(y_s | y_t)`` of every step, ``(S, B, M)``, by torch.distributions, step by step.

    Also squared standardised errors, and the part of the log-density without weights in it.
    """
    timesteps = predictor.sampler.timesteps
    features = predictor.denoiser.context_features(predictor.contexts(context)).unsqueeze(1)
    logs, squares, constants = [], [], []
    coefficients, clip = predictor.sampler.steps, predictor.sampler.sampling.clip
    for i, t in enumerate(reversed(timesteps)):
        bar = predictor.schedule.curve[t]
        signal, noise = math.sqrt(bar), math.sqrt(1 - bar)
        time = predictor.denoiser.time_features(torch.tensor(t))
        output = predictor.denoiser(states[i], time, features)
        clean = {
            "epsilon": (states[i] - noise * output) / signal,
            "x0": output,
            "v": signal * states[i] - noise * output,
        }[predictor.prediction]
        if clip:
            clean = clean.clamp(-clip, clip)
        step = coefficients[i]
        normal = torch.distributions.Normal(step.clean * clean + step.keep * states[i], step.noise)
        logs.append(normal.log_prob(states[i + 1]).sum(-1))
        squares.append(((states[i + 1] - normal.mean) / step.noise).square().sum(-1))
        constants.append(logs[-1].detach() + 0.5 * squares[-1].detach())
    return torch.stack(logs), torch.stack(squares), torch.stack(constants)


@pytest.mark.parametrize("knobs", STOCHASTIC)
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize(
    "shape",
    [
        {"outcome_scaling": "residual", "chunk_rows": 7, "clip": 0.0},
        {"clip": 0.7, "chunk_rows": 1},
        {"num_sampling_steps": 1, "size": 1},
        {"num_sampling_steps": 20, "spacing": "uniform", "clip": 1.5},
    ],
)
def test_log_density_is_the_sum_of_normal_log_densities_of_the_steps(
    knobs: dict[str, object], prediction: str, shape: dict[str, object]
) -> None:
    predictor = _predictor(prediction=prediction, **knobs, **shape)  # type: ignore[arg-type]
    context = torch.randn(3, 2, generator=_generator(4))
    path = predictor.sample_path(context, 5, _generator(5))
    weights = torch.randn(5, 3, dtype=torch.float64, generator=_generator(6)).T
    weights[0, 0] = 0.0
    logs, squares, constants = _plain(predictor, context, path.states)
    # The surrogate leaves out the constants of the normal densities.
    expected = (weights * (logs - constants)).sum()
    found = predictor.weighted_path_density(context, path, weights)
    assert float(found.value.detach()) == pytest.approx(
        float(expected.detach()), rel=1e-3, abs=1e-3
    )
    gradient = _gradient(predictor, expected)
    torch.testing.assert_close(
        _gradient(predictor, found.value),
        gradient,
        rtol=1e-3,
        atol=1e-3 * float(gradient.abs().max()),  # single precision, whose order is the machine's
    )
    assert float(found.outside) == 0.0
    # Paths come from these very densities: standardised errors are chi-square with d_y degrees.
    assert float(squares.detach().mean()) == pytest.approx(predictor.outcome_size, rel=0.5)


def test_a_path_ends_in_the_scenarios_of_the_same_noise() -> None:
    for scaling in ("global", "residual"):
        predictor = _predictor(outcome_scaling=scaling)
        context = torch.randn(3, 2, generator=_generator(4))
        path = predictor.sample_path(context, 5, _generator(5))
        assert path.states.shape == (5, 3, 5, 2)
        assert not path.states.requires_grad
        assert torch.equal(path.scenarios, predictor.sample(context, 5, _generator(5)))


def test_the_trust_region_leaves_out_steps_of_positive_weight_and_large_error() -> None:
    predictor = _predictor()
    context = torch.randn(3, 2, generator=_generator(4))
    path = predictor.sample_path(context, 50, _generator(5))
    weights = torch.randn(3, 50, generator=_generator(6))
    logs, squares, constants = _plain(predictor, context, path.states)
    beyond = (weights > 0) & (squares.detach() > 1.5 * 2)
    expected = (weights * (logs - constants)).masked_fill(beyond, 0.0).sum()
    found = predictor.weighted_path_density(context, path, weights, trust_region=1.5)
    assert 0.02 < float(found.outside) == pytest.approx(float(beyond.double().mean()))
    gradient = _gradient(predictor, expected)
    torch.testing.assert_close(
        _gradient(predictor, found.value),
        gradient,
        rtol=1e-3,
        atol=1e-4 * float(gradient.abs().max()),
    )


def test_zero_weights_give_zero_and_a_gradient_of_zeros() -> None:
    predictor = _predictor()
    context = torch.zeros(1, 2)
    path = predictor.sample_path(context, 4, _generator())
    found = predictor.weighted_path_density(context, path, torch.zeros(1, 4))
    assert float(found.value.detach()) == 0.0
    assert not bool(_gradient(predictor, found.value).any())


@pytest.mark.parametrize("knobs", STOCHASTIC)
@pytest.mark.parametrize(("clip", "prediction"), [(0.0, "x0"), (1.0, "epsilon")])
def test_the_score_of_the_path_is_unbiased_for_the_gradient_of_an_expectation(
    knobs: dict[str, object], clip: float, prediction: str
) -> None:
    """``E f(y) grad log p(path) = grad E f(y)``, the latter by the pathwise derivative.

    Along random directions in the weights, f smooth and bounded, each side from its own noise. The
    clip is a kink of the clean prediction, not of the density: both sides stay unbiased.
    """
    predictor = _predictor(clip=clip, prediction=prediction, num_sampling_steps=3, **knobs)  # type: ignore[arg-type]
    context = torch.tensor([[0.4, -1.0]])
    count, replicates = 1500, 40
    size = sum(weight.numel() for weight in _parameters(predictor))
    directions = torch.randn(6, size, generator=_generator(9)) / math.sqrt(size)

    def cost(scenarios: Tensor) -> Tensor:
        standard = predictor.outcomes(scenarios)
        return standard[..., 0].sin() + 0.5 * (standard.prod(-1)).tanh()

    generator, score, pathwise = _generator(3), [], []
    for _ in range(replicates):
        path = predictor.sample_path(context, count, generator)
        values = cost(path.scenarios)
        weights = (values - values.mean()) / (count - 1)
        value = predictor.weighted_path_density(context, path, weights).value
        score.append(directions @ _gradient(predictor, value))
        scenarios = predictor.sample(context, count, generator, differentiable=True)
        pathwise.append(directions @ _gradient(predictor, cost(scenarios).mean()))
    one, two = torch.stack(score).double(), torch.stack(pathwise).double()
    error = ((one.var(0) + two.var(0)) / replicates).sqrt()
    assert bool(((one.mean(0) - two.mean(0)).abs() < 4 * error).all())
    assert float(error.norm()) < 0.25 * float(two.mean(0).norm())


@pytest.mark.parametrize(
    "knobs",
    [
        {"final_noise": False},
        {"sampler": "ancestral", "final_noise": False},
        {"eta": 0.0, "final_noise": False},
        {"sampler": "dpm_solver", "final_noise": False},
    ],
)
def test_a_path_with_a_step_without_noise_has_no_density(knobs: dict[str, object]) -> None:
    predictor = _predictor(**knobs)
    context = torch.zeros(1, 2)
    path = predictor.sample_path(context, 3, _generator())
    with pytest.raises(ValueError, match=r"step without noise.*final_noise=true"):
        predictor.weighted_path_density(context, path, torch.ones(1, 3))
    with pytest.raises(ValueError, match="step without noise"):
        predictor.check_path_density()


def test_the_density_is_that_of_the_path_it_is_given() -> None:
    """A path moved by hand is judged as moved: nothing is drawn again."""
    predictor = _predictor(clip=0.0)
    context = torch.zeros(1, 2)
    path = predictor.sample_path(context, 3, _generator())
    moved = ScenarioPath(path.states.clone(), path.scenarios)
    moved.states[-1, 0, 1] += 3.0
    one = predictor.weighted_path_density(context, moved, torch.eye(3)[1:2]).value
    squares = _plain(predictor, context, moved.states)[1]
    assert float(one.detach()) == pytest.approx(
        -0.5 * float(squares.detach()[:, 0, 1].sum()), rel=1e-3
    )
