"""The demand mixture: weights, density and samples are of one distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

from diffusion_dfl.data import DataError
from diffusion_dfl.data.demand import DemandMixture, demand_dataset


def drawn(seed: int = 0, **values: Any) -> DemandMixture:
    return DemandMixture.draw(np.random.default_rng(seed), **values)


def test_weights_are_the_softmax_of_scaled_linear_logits() -> None:
    mixture = drawn(weights=[0.2, 0.3, 0.5], logit_scale=0.3)
    contexts = np.random.default_rng(1).standard_normal((50, 20))
    plain = np.array([0.2, 0.3, 0.5]) * np.exp(contexts @ mixture.logits.T)
    expected = plain / plain.sum(1, keepdims=True)
    np.testing.assert_allclose(mixture.weights(contexts), expected, rtol=1e-12)
    # A logit of a standard normal context has the deviation of its row of Theta, about sqrt(d_x).
    assert np.linalg.norm(mixture.logits, axis=1) == pytest.approx(0.3 * 20**0.5, rel=0.4)


def test_weights_at_the_origin_are_those_given_and_far_contexts_do_not_overflow() -> None:
    mixture = drawn(weights=[0.2, 0.3, 0.5])
    np.testing.assert_allclose(mixture.weights(np.zeros((1, 20))), [[0.2, 0.3, 0.5]], rtol=1e-12)
    far = mixture.weights(np.full((1, 20), 1e6))
    assert np.isfinite(far).all() and far.sum() == pytest.approx(1.0)


def test_without_a_scale_the_context_says_nothing() -> None:
    mixture = drawn(logit_scale=0.0, num_components=4)
    contexts = np.random.default_rng(1).standard_normal((5, 20))
    np.testing.assert_allclose(mixture.weights(contexts), 0.25, rtol=1e-12)


@pytest.mark.parametrize("num_components", [1, 2, 3, 5])
def test_modes_lie_apart_inside_the_range(num_components: int) -> None:
    mixture = drawn(num_components=num_components)
    means = mixture.means
    assert means[0] == pytest.approx(5.0 - means[-1]) and means[0] >= 0.5
    if num_components > 1:
        assert np.diff(means).min() >= 5 * mixture.deviation - 1e-12


def test_density_integrates_to_one_and_matches_the_samples() -> None:
    mixture = drawn()
    context = np.random.default_rng(2).standard_normal((1, 20))
    points = mixture.means.tolist()

    def mass(low: float, high: float) -> float:
        return quad(
            lambda y: float(mixture.density(np.array([y]), context)[0, 0]),
            low,
            high,
            points=[p for p in points if low < p < high],
            limit=200,
        )[0]

    assert mass(-1.0, 6.0) == pytest.approx(1.0, abs=1e-8)
    number = 40_000
    demand = mixture.sample(np.random.default_rng(3), np.repeat(context, number, axis=0))
    assert demand.shape == (number, 1)
    for low, high in ((-1.0, 0.9), (0.9, 2.4), (2.4, 4.0), (4.0, 6.0)):
        share = ((demand >= low) & (demand < high)).mean()
        assert share == pytest.approx(mass(low, high), abs=4 * 0.5 / number**0.5)


def test_demand_goes_with_its_own_context() -> None:
    mixture = drawn()
    data = demand_dataset(np.random.default_rng(1), mixture, num_train=20_000)
    component = np.abs(data.outcomes - mixture.means).argmin(1)
    expected = mixture.weights(data.contexts)
    # Calibration: among rows whose first weight is near q, a share near q is of that component.
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        rows = (expected[:, 0] >= low) & (expected[:, 0] < high)
        error = 4 * 0.5 / rows.sum() ** 0.5
        assert (component[rows] == 0).mean() == pytest.approx(expected[rows, 0].mean(), abs=error)


def test_a_seed_is_a_data_set_with_its_own_dependence() -> None:
    one, same, other = drawn(3), drawn(3), drawn(4)
    np.testing.assert_array_equal(one.logits, same.logits)
    assert not np.isin(one.logits, other.logits).any()
    data = demand_dataset(np.random.default_rng(0), one)
    again = demand_dataset(np.random.default_rng(0), one)
    np.testing.assert_array_equal(data.outcomes, again.outcomes)
    assert (len(data.train), len(data.validation), len(data.test)) == (1600, 400, 1000)
    assert data.contexts.shape == (3000, 20) and data.dates is None and data.source == "simulated"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_components": 0}, r"task\.num_components=0: "),
        ({"weights": [0.5, 0.4, 0.2]}, r"task\.weights=\[0\.5, 0\.4, 0\.2\]: .* sum to 1\.1;"),
        ({"weights": [0.5, 0.5]}, r"task\.weights=.* one weight a component, 3"),
        ({"weights": [0.5, 0.5, 0.0]}, r"task\.weights=.* above 0"),
        ({"deviation": 0.0}, r"task\.deviation=0\.0: "),
        ({"demand_max": -5.0}, r"task\.demand_max=-5\.0: "),
        ({"context_size": 0}, r"task\.context_size=0: .*logit_scale=0"),
        ({"logit_scale": float("nan")}, r"task\.logit_scale=nan: "),
    ],
)
def test_impossible_demand_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        drawn(**values)


def test_a_part_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"task\.num_validation=0: "):
        demand_dataset(np.random.default_rng(0), drawn(), num_validation=0)
