"""The margin mixture: its closed forms against quadrature and samples, and the released data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from diffusion_dfl.data import DataError
from diffusion_dfl.data.mixture import MIXTURES, MarginMixture, margin_dataset, released_margins

RELEASED, PAPER = MIXTURES["released"], MIXTURES["paper"]
mixtures = st.builds(
    MarginMixture,
    p=st.floats(0.05, 0.99),
    a=st.floats(0.2, 2.0),
    b=st.floats(0.2, 4.0),
    sigma=st.floats(0.05, 0.5),
    outcome_scale=st.floats(0.2, 1.5),
)


def by_quadrature(mixture: MarginMixture, z: float) -> float:
    """``E exp(-y z)`` of one product, a component at a time."""
    total = 0.0
    for share, mean in ((mixture.p, mixture.a), (1 - mixture.p, -mixture.b)):
        law = norm(mixture.outcome_scale * mean, mixture.outcome_scale * mixture.sigma)
        low, high = law.ppf(1e-15), law.isf(1e-15)
        total += share * quad(lambda y, law=law: np.exp(-y * z) * law.pdf(y), low, high)[0]
    return total


@settings(max_examples=30, deadline=None, derandomize=True)
@given(mixtures, st.floats(0.0, 2.0))
def test_expected_cost_of_a_product_is_its_integral(mixture: MarginMixture, z: float) -> None:
    assert mixture.expected_cost(np.array([z])) == pytest.approx(
        by_quadrature(mixture, z), rel=1e-7
    )


def test_costs_of_independent_products_multiply() -> None:
    z = np.array([[0.1, 0.5, 1.3], [0.0, 2.0, 0.7]])
    alone = RELEASED.expected_cost(z.reshape(-1, 1)).reshape(2, 3)
    np.testing.assert_allclose(RELEASED.expected_cost(z), alone.prod(1), rtol=1e-14)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(mixtures, st.floats(0.1, 5.0))
def test_best_order_has_the_least_expected_cost(mixture: MarginMixture, capacity: float) -> None:
    best = mixture.best_order(capacity)
    assert 0.0 <= best <= capacity
    grid = np.linspace(0.0, capacity, 401)[:, None]
    assert mixture.log_cost(np.array([best])) <= mixture.log_cost(grid).min() + 1e-14
    found = minimize_scalar(
        lambda z: float(mixture.log_cost(np.array([z]))), bounds=(0.0, capacity), method="bounded"
    )
    assert best == pytest.approx(found.x, abs=1e-4 * capacity)


def test_orders_on_either_bound_are_found() -> None:
    assert MarginMixture(0.9, 1.0, 3.0, 0.15, 0.5).best_order(0.3) == 0.3
    assert MarginMixture(0.5, 1.0, 3.0, 0.15, 0.5).best_order(2.0) == 0.0


def test_logarithm_of_the_cost_is_finite_where_the_cost_is_not() -> None:
    z = np.full(10, 1e3)
    assert np.isfinite(PAPER.log_cost(z)) and PAPER.expected_cost(z) == np.inf
    assert PAPER.expected_cost(np.zeros(10)) == pytest.approx(1.0, rel=1e-14)


def test_golden_numbers_of_both_mixtures() -> None:
    best = RELEASED.best_order(2.0)
    assert best == pytest.approx(0.5452, abs=5e-5)
    assert RELEASED.expected_cost(np.full(1, best)) == pytest.approx(0.91257, abs=5e-6)
    assert RELEASED.expected_cost(np.full(10, best)) == pytest.approx(0.40056, abs=5e-6)
    assert RELEASED.expected_cost(np.full(10, 2.0)) == pytest.approx(5.5e3, rel=1e-4)
    best = PAPER.best_order(2.0)
    assert best == pytest.approx(0.0714, abs=5e-5)
    assert PAPER.expected_cost(np.full(10, best)) == pytest.approx(0.92938, abs=5e-6)
    assert PAPER.expected_cost(np.full(10, 2.0)) == pytest.approx(1.86e19, rel=5e-3)


def test_samples_follow_the_mixture() -> None:
    margins = RELEASED.sample(np.random.default_rng(0), (200_000, 1))
    assert margins.mean() == pytest.approx(0.3, abs=0.006)
    assert margins.std() == pytest.approx(0.6047, abs=0.006)
    assert (margins > 0).mean() == pytest.approx(0.9, abs=0.003)
    z = 0.8
    sampled = np.exp(-margins * z)
    error = 4 * sampled.std() / len(margins) ** 0.5
    assert sampled.mean() == pytest.approx(float(RELEASED.expected_cost(np.array([z]))), abs=error)


def test_released_data_cost_what_the_release_printed() -> None:
    test = released_margins()[1][800:]
    assert np.exp(-2.0 * test.sum(1)).mean() == pytest.approx(1.98709, abs=5e-6)
    best = RELEASED.best_order(2.0)
    assert np.exp(-best * test.sum(1)).mean() == pytest.approx(0.34646, abs=5e-6)


def test_released_data_are_those_of_the_global_stream_and_leave_it_alone() -> None:
    torch.manual_seed(1)
    contexts = torch.randn(1000, 20)
    gain = torch.bernoulli(torch.full((1000, 10), 0.9)).bool()
    noise = torch.randn(1000, 10) * 0.15
    margins = 0.5 * torch.where(gain, 1.0 + noise, -3.0 + noise)
    state = torch.get_rng_state()
    again = released_margins()
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(again[0], contexts.double().numpy())
    np.testing.assert_array_equal(again[1], margins.double().numpy())


def test_a_seed_is_a_data_set() -> None:
    one, same, other = (margin_dataset(np.random.default_rng(s), RELEASED) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.outcomes, same.outcomes)
    assert not np.isin(one.outcomes, other.outcomes).any()
    assert (len(one.train), len(one.validation), len(one.test)) == (640, 160, 200)
    assert one.outcomes.shape == (1000, 10) and one.dates is None and one.source == "simulated"


def test_contexts_are_a_constant_or_noise_that_tells_nothing() -> None:
    plain = margin_dataset(np.random.default_rng(0), RELEASED)
    assert plain.feature_names == ("constant",) and np.ptp(plain.contexts) == 0
    noisy = margin_dataset(np.random.default_rng(0), RELEASED, context_size=20, num_train=20_000)
    assert noisy.contexts.shape[1] == 20
    correlation = np.corrcoef(noisy.contexts.T, noisy.outcomes.T)[:20, 20:]
    assert np.abs(correlation).max() < 5 / 20_000**0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": 1.0}, r"task\.p=1\.0: .* strictly between 0 and 1"),
        ({"p": float("nan")}, r"task\.p=nan"),
        ({"a": 0.0}, r"task\.a=0\.0"),
        ({"b": -3.0}, r"task\.b=-3\.0"),
        ({"sigma": 0.0}, r"task\.sigma=0\.0: .* above 0"),
        ({"outcome_scale": float("inf")}, r"task\.outcome_scale=inf"),
    ],
)
def test_impossible_mixtures_are_refused(changes: dict[str, float], message: str) -> None:
    good: dict[str, Any] = {"p": 0.9, "a": 1.0, "b": 3.0, "sigma": 0.15, "outcome_scale": 0.5}
    with pytest.raises(DataError, match=message):
        MarginMixture(**good | changes)


@pytest.mark.parametrize(
    ("key", "value"), [("num_products", 0), ("context_size", -1), ("num_train", 1), ("num_test", 0)]
)
def test_impossible_sizes_are_refused(key: str, value: int) -> None:
    with pytest.raises(DataError, match=rf"task\.{key}={value}: "):
        margin_dataset(np.random.default_rng(0), RELEASED, **{key: value})
