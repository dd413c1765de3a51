"""Of which programs the decision depends on marginal laws alone.

Where a cost is a sum over the coordinates of the outcome, its expectation is a sum of expectations, one a
marginal law, whatever constraints tie the decisions together.
"""

import pytest
import torch
from torch import Tensor

import diffusion_dfl as ddfl

_GENERATOR = torch.Generator().manual_seed(3)


def _dependent(batch: int, count: int, size: int) -> Tensor:
    """Scenarios with one shock in common."""
    drawn = torch.randn(batch, count, size, generator=_GENERATOR, dtype=torch.float64)
    shock = torch.randn(batch, count, 1, generator=_GENERATOR, dtype=torch.float64)
    return 5.0 + drawn + 2.0 * shock


def _apart(scenarios: Tensor) -> Tensor:
    """The same marginal laws: every coordinate's scenarios in an order of its own."""
    order = torch.rand(scenarios.shape, generator=_GENERATOR).argsort(1)
    return scenarios.gather(1, order)


PROGRAMS = {
    "power with ramp limits": (ddfl.PowerProgram(), 24, True),
    "a newsvendor's items in one storage": (
        ddfl.Newsvendor(0, 0, 0.9, 0, 0.1, 0, z_max=50, num_decisions=7, limit=30.0),
        7,
        True,
    ),
    "a portfolio": (ddfl.MeanVariancePortfolio(5, 10.0), 5, False),
    "product allocation": (ddfl.ProductAllocation(5), 5, False),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("smoothed", [False, True])
def test_a_cost_that_is_a_sum_over_outcomes_knows_their_marginal_laws_alone(
    name: str, smoothed: bool
) -> None:
    program, size, marginal = PROGRAMS[name]
    scenarios = _dependent(4, 40, size)
    if not marginal:
        scenarios = 0.05 + (scenarios - 5.0) / 10.0
    layer = ddfl.DecisionLayer(program, bandwidth_scale=1.5 if smoothed else 0.0)
    one, other = (layer(values) for values in (scenarios, _apart(scenarios)))
    if marginal:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert (one.sum(1) - 30.0).abs().max() < 1e-6 or name.startswith("power")
    else:
        assert (one - other).abs().max() > 1e-2
