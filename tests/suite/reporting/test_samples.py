"""What figure 11 counts of the demands that a model draws."""

import math

import numpy as np
import pytest

from diffusion_dfl.suite.reporting.figures.samples import near_a_mode

MODES = np.array([1.0, 3.0, 5.0])


def test_demands_within_a_half_of_a_mode_count() -> None:
    assert near_a_mode(np.array([[0.6, 1.4, 2.0], [3.0, 5.6, 9.0]]), MODES) == 0.5


def test_of_the_mixture_itself_it_is_the_normal_law_within_a_half() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.choice(MODES, 200_000) + 0.2 * rng.standard_normal(200_000)
    assert near_a_mode(drawn, MODES) == pytest.approx(math.erf(2.5 / math.sqrt(2)), abs=1e-3)
