"""The linear-Gaussian laboratory: closed forms against autograd, differences and simulation."""

import json
import math
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def scripts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield


def make(
    size: int = 2,
    steps: int = 10,
    variance: Any = "beta",
    error: float = 0.3,
    shape: Any = "stepwise",
    num_samples: int = 5,
    contexts: int = 3,
    seed: int = 0,
) -> tuple[Any, Tensor]:
    """A model and outcomes of its own chain."""
    from laboratory.linear_gaussian import LinearDenoiser, LinearGaussianModel, ReverseChain

    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    slope = normal(size, contexts) / math.sqrt(contexts)
    chain = ReverseChain.of(NoiseSchedule("linear", steps), variance)
    denoiser = LinearDenoiser.optimum(chain, slope).perturbed(error, shape, generator)
    model = LinearGaussianModel(denoiser, chain, normal(num_samples, contexts))
    return model, model.sample(normal(num_samples, size))


def flat(denoiser: Any, start: int = 0) -> Tensor:
    blocks = (denoiser.on_outcome, denoiser.on_context, denoiser.offset)
    return torch.cat([block.flatten(start) for block in blocks], -1)


def autograd(model: Any, value: Any) -> Tensor:
    """Gradient of ``value(model)`` ``(N,)`` in theta, by autograd: ``(N, parameters)``."""
    from laboratory.linear_gaussian import LinearDenoiser, LinearGaussianModel

    old = model.denoiser
    blocks = [
        block.clone().requires_grad_() for block in (old.on_outcome, old.on_context, old.offset)
    ]
    values = value(LinearGaussianModel(LinearDenoiser(*blocks), model.chain, model.contexts))
    rows = [torch.autograd.grad(entry, blocks, retain_graph=True) for entry in values]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def cosine_at(size: int, steps: int, **options: Any) -> tuple[float, float]:
    """Mean cosines with VLB and simple weights."""
    from laboratory.linear_gaussian import WEIGHTINGS, cosines

    model, outcomes = make(size, steps, num_samples=64, contexts=size, **options)
    weights = torch.stack([model.chain.weights(name) for name in WEIGHTINGS])
    found = cosines(model.score(outcomes), model.noise_loss_gradient(outcomes), weights).mean(1)
    return float(found[0]), float(found[1])


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_gradient_of_log_likelihood_is_autograds(variance: str) -> None:
    model, outcomes = make(3, 12, variance)
    expected = autograd(model, lambda other: other.log_likelihood(outcomes))
    torch.testing.assert_close(flat(model.score(outcomes).dense(), 1), expected)


def test_gradient_of_log_likelihood_is_the_central_difference() -> None:
    from laboratory.linear_gaussian import LinearDenoiser, LinearGaussianModel

    model, outcomes = make(2, 8)
    old, step = model.denoiser, 1e-5
    direction = make(2, 8, seed=1)[0].denoiser

    def moved(by: float) -> Tensor:
        denoiser = LinearDenoiser(
            old.on_outcome + by * direction.on_outcome,
            old.on_context + by * direction.on_context,
            old.offset + by * direction.offset,
        )
        return LinearGaussianModel(denoiser, model.chain, model.contexts).log_likelihood(outcomes)

    difference = (moved(step) - moved(-step)) / (2 * step)
    slope = flat(model.score(outcomes).dense(), 1) @ flat(direction)
    torch.testing.assert_close(slope, difference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_weighted_noise_loss_gradient_is_the_gradient_of_the_elbo(variance: str) -> None:
    model, outcomes = make(3, 12, variance)
    ours = model.noise_loss_gradient(outcomes).times(model.chain.weights("vlb"))
    expected = autograd(model, lambda other: other.elbo(outcomes))
    torch.testing.assert_close(flat(ours.dense(), 1), expected)


def test_inner_product_by_step_is_that_of_all_entries() -> None:
    model, outcomes = make(3, 6)
    score, surrogate = model.score(outcomes), model.noise_loss_gradient(outcomes)
    expected = (flat(score.dense(), 1) * flat(surrogate.dense(), 1)).sum(1)
    torch.testing.assert_close(score.inner(surrogate).sum(0), expected)


def simulate(model: Any, generator: torch.Generator, count: int) -> list[Tensor]:
    """y_0..y_T of the ancestral chain by the predicted noise, for the first context."""
    chain, old = model.chain, model.denoiser
    y = torch.randn((count, 2), generator=generator, dtype=torch.float64)
    path = [y]
    for t in range(len(chain.gain) - 1, -1, -1):
        x = model.contexts[0]
        noise = y @ old.on_outcome[t].T + old.on_context[t] @ x + old.offset[t]
        beta = 1 - chain.alpha[t]
        y = (y - beta / chain.noise[t] * noise) / chain.alpha[t].sqrt()
        fresh = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        y = y + chain.variance[t].sqrt() * fresh
        path.append(y)
    return path[::-1]


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_marginals_are_those_of_simulated_chains(variance: str) -> None:
    model, _ = make(variance=variance, num_samples=1)
    count = 100_000
    path = simulate(model, torch.Generator().manual_seed(3), count)
    for t in (0, 1, 5):
        centred = path[t] - model.means[t][0]
        error = centred.std(0) / math.sqrt(count)
        assert ((centred.mean(0)).abs() <= 5 * error).all()
        products = centred.unsqueeze(2) * centred.unsqueeze(1)
        error = products.std(0) / math.sqrt(count)
        assert ((products.mean(0) - model.covariances[t]).abs() <= 5 * error).all()


def forward_path(model: Any, outcome: Tensor, generator: torch.Generator, count: int) -> Any:
    """y_0..y_T of q given y_0 and log q(y_1..y_T | y_0)."""
    path, density = [outcome.expand(count, 2)], torch.zeros(count, dtype=torch.float64)
    for alpha in model.chain.alpha:
        noise = torch.randn((count, 2), generator=generator, dtype=torch.float64)
        path.append(alpha.sqrt() * path[-1] + (1 - alpha).sqrt() * noise)
        density = density - 0.5 * noise.square().sum(1) - (2 * math.pi * (1 - alpha)).log()
    return path, density


def posterior_path(model: Any, outcome: Tensor, generator: torch.Generator, count: int) -> Any:
    """y_0..y_T of p given y_0, by y_t given y_{t-1}."""
    path = [outcome.expand(count, 2)]
    for t, step in enumerate(model.transition):
        wide = model.covariances[t + 1]
        gain = wide @ step.T @ torch.linalg.inv(model.covariances[t])
        left = wide - gain @ step @ wide
        noise = torch.randn((count, 2), generator=generator, dtype=torch.float64)
        mean = model.means[t + 1][0] + (path[-1] - model.means[t][0]) @ gain.T
        path.append(mean + noise @ torch.linalg.cholesky(left).T)
    return path


def log_ratios(model: Any, outcome: Tensor, count: int) -> Tensor:
    """log p(y_0, ..., y_T) - log q(y_1, ..., y_T | y_0) over paths of q."""
    path, density = forward_path(model, outcome, torch.Generator().manual_seed(4), count)
    joint = -0.5 * path[-1].square().sum(1) - math.log(2 * math.pi)
    for t, var in enumerate(model.chain.variance):
        length = step_noise(model, path, t).square().sum(1)
        joint = joint - 0.5 * length / var - (2 * math.pi * var).log()
    return joint - density


def step_noise(model: Any, path: list[Tensor], t: int) -> Tensor:
    return path[t] - path[t + 1] @ model.transition[t].T - model.shift[t][0]


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_elbo_is_the_mean_log_ratio_over_forward_paths(variance: str) -> None:
    model, outcomes = make(variance=variance, num_samples=1)
    ratio = log_ratios(model, outcomes, 100_000)
    assert abs(ratio.mean() - model.elbo(outcomes)) <= 4 * ratio.std() / math.sqrt(len(ratio))


def test_log_likelihood_is_the_log_of_the_mean_ratio_over_forward_paths() -> None:
    # Importance sampling; a small error keeps the variance of the ratio small.
    model, outcomes = make(error=0.05, num_samples=1)
    ratio = log_ratios(model, outcomes, 100_000).exp()
    exact = model.log_likelihood(outcomes).exp()
    assert abs(ratio.mean() - exact) <= 4 * ratio.std() / math.sqrt(len(ratio))


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_second_moments_of_the_joint_score_are_those_of_simulated_paths(variance: str) -> None:
    from laboratory.linear_bound import score_moments

    model, outcomes = make(steps=5, variance=variance, num_samples=1)
    generator = torch.Generator().manual_seed(5)
    count = 200_000
    paths = [
        forward_path(model, outcomes, generator, count)[0],
        posterior_path(model, outcomes, generator, count),
    ]
    affine = 1 + model.contexts.square().sum()
    for path, exact in zip(paths, score_moments(model, outcomes), strict=True):
        squares = torch.zeros(count, dtype=torch.float64)
        for t, (gain, var) in enumerate(zip(model.chain.gain, model.chain.variance, strict=True)):
            noise = step_noise(model, path, t).square().sum(1)
            squares = squares + (gain / var) ** 2 * noise * (path[t + 1].square().sum(1) + affine)
        assert abs(squares.mean() - exact) <= 4 * squares.std() / math.sqrt(count)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 4),
    steps=st.integers(2, 30),
    variance=st.sampled_from(["beta", "posterior"]),
    shape=st.sampled_from(["stepwise", "uniform"]),
    error=st.floats(0.001, 1.0),
    seed=st.integers(0, 10_000),
)
def test_divergence_is_positive_and_every_form_of_the_bound_holds(**options: Any) -> None:
    from laboratory.linear_bound import second_moment_bound

    model, outcomes = make(**options)
    assert (model.divergence(outcomes) >= -1e-9).all()
    found = second_moment_bound(model, outcomes)
    assert (found.difference <= found.centred * (1 + 1e-9)).all()
    assert (found.centred <= found.sharp).all() and (found.sharp <= found.loose).all()


def test_constant_of_the_bound_is_the_largest_ratio_of_the_two_divergences() -> None:
    from laboratory.linear_bound import TRIANGULAR_CONSTANT

    u = torch.linspace(1e-4, 1 - 1e-3, 1_000_000, dtype=torch.float64)
    for ratios in (u, 1 / u):
        ratio = (ratios - 1) ** 2 / (ratios + 1) / (ratios * ratios.log() - ratios + 1)
        assert ratio.max() <= TRIANGULAR_CONSTANT
    triangular = (u - 1) ** 2 / (u + 1) / (u * u.log() - u + 1)
    assert triangular.max() == pytest.approx(TRIANGULAR_CONSTANT, abs=1e-5)


def test_elbo_is_the_likelihood_at_the_optimum_where_the_chain_starts_from_the_right_law() -> None:
    from laboratory.linear_gaussian import LinearGaussianModel

    model, outcomes = make(steps=50, error=0.0)
    # With W x = 0 the law of y_T is N(0, I) exactly.
    centred = LinearGaussianModel(model.denoiser, model.chain, torch.zeros_like(model.contexts))
    assert centred.divergence(outcomes).abs().max() <= 1e-10
    # Else its mean is sqrt(alpha_bar_T) W x, and nothing else is amiss.
    assert 1e-9 < float(model.divergence(outcomes).mean()) < 1e-3
    assert float(make(steps=50, variance="posterior", error=0.0)[0].divergence(outcomes).min()) > 1


def test_chain_of_the_optimum_gives_back_the_law_of_the_data() -> None:
    model, _ = make(steps=50, error=0.0)
    slope = -model.denoiser.on_context[-1] / (model.chain.noise * model.chain.signal)[-1]
    # The start at mean 0 is still felt, by the share of signal that T steps leave.
    kept = 1 - model.chain.signal[-1] ** 2
    torch.testing.assert_close(model.means[0], kept * model.contexts @ slope.T)
    torch.testing.assert_close(model.covariances[0], torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("size", [2, 5, 10, 20])
def test_cosine_at_the_optimum_is_one_with_beta_and_vlb_weights_and_093_with_simple(
    size: int,
) -> None:
    vlb, simple = cosine_at(size, 100, error=0.0)
    assert vlb >= 0.9999
    assert simple == pytest.approx(0.93, abs=0.006)


def test_cosine_at_the_optimum_over_a_thousand_steps() -> None:
    vlb, simple = cosine_at(2, 1000, error=0.0)
    assert vlb >= 0.9999
    assert simple == pytest.approx(0.893, abs=0.006)


def test_an_error_at_the_first_steps_costs_vlb_weights_more_than_simple_ones() -> None:
    for error, least, most in ((0.05, 0.85, 0.99), (0.3, 0.3, 0.75)):
        stepwise = cosine_at(10, 100, error=error)
        uniform = cosine_at(10, 100, error=error, shape="uniform")
        assert all(least <= value <= most for value in (*stepwise, *uniform))
        assert stepwise[0] > stepwise[1]
        assert stepwise[0] > uniform[0]
    assert uniform[0] < uniform[1]


def test_relative_error_is_the_relative_frobenius_norm() -> None:
    exact, moved = (make(20, 10, error=e, contexts=20)[0].denoiser for e in (0.0, 0.1))
    for name in ("on_outcome", "on_context"):
        before, after = getattr(exact, name), getattr(moved, name)
        ratio = (after - before).norm(dim=(1, 2)) / before.norm(dim=(1, 2))
        torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1), rtol=0.15, atol=0)


def test_a_chain_of_one_step_or_unknown_names_are_refused() -> None:
    from laboratory.linear_gaussian import ReverseChain

    with pytest.raises(ValueError, match="num_steps=1 must be at least 2"):
        ReverseChain.of(NoiseSchedule("linear", 1), "beta")
    chain = ReverseChain.of(NoiseSchedule("linear", 4), "beta")
    with pytest.raises(ValueError, match="weighting='elbo' is unknown"):
        chain.weights("elbo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variance='learned' is unknown"):
        ReverseChain.of(NoiseSchedule("linear", 4), "learned")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape='flat' is unknown"):
        make(shape="flat")


@pytest.mark.slow
def test_command_writes_tables_and_figures_that_name_their_command(tmp_path: Path) -> None:
    from laboratory import linear

    parser = ArgumentParser()
    linear.add_arguments(parser)
    assert linear.run(parser.parse_args(["--quick", "--output", str(tmp_path)])) == 0
    record = json.loads((tmp_path / "linear.json").read_text(encoding="utf-8"))
    assert record["command"] == "python scripts/gradient_lab.py linear --quick"
    assert len(record["cosines"]) == 2 * 2 * 2 * 11
    assert all(row["centred_smallest_ratio"] >= 1 for row in record["bound"])
    assert record["command"] in (tmp_path / "linear.md").read_text(encoding="utf-8")
    assert (tmp_path / "linear.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "linear.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("word", ["1", "ten"])
def test_too_few_timesteps_are_refused_before_the_run(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from laboratory import linear

    parser = ArgumentParser()
    linear.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--timesteps", word])
    assert f"{word} must be an integer of at least 2" in capsys.readouterr().err
