"""Numbers of the ready programs, which are constants, and what a layer is made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import (
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Regulariser,
    TorchProgram,
)

NUMBERS: list[tuple[Callable[..., Any], str, dict[str, Any]]] = [
    (Newsvendor, "cb", {}),
    (Newsvendor, "limit", {}),
    (PowerProgram, "shortage", {}),
    (PowerProgram, "ramp", {}),
    (MeanVariancePortfolio, "risk_aversion", {"num_decisions": 3}),
    (ProductAllocation, "capacity", {"num_decisions": 3}),
    (Regulariser, "weight", {"kind": "entropic"}),
]


@pytest.mark.parametrize(("made", "name", "others"), NUMBERS)
def test_a_number_to_be_learned_is_refused_by_name(
    made: Callable[..., Any], name: str, others: dict[str, Any]
) -> None:
    learned = torch.nn.Parameter(torch.tensor(0.5))
    with pytest.raises(TypeError, match=f"{name} requires a gradient.*TorchProgram"):
        made(**{name: learned}, **others)


@pytest.mark.parametrize(("made", "name", "others"), NUMBERS)
@pytest.mark.parametrize("value", [[1.0, 2.0], "1", np.ones(2)])
def test_what_is_not_one_number_is_refused_by_name(
    made: Callable[..., Any], name: str, others: dict[str, Any], value: Any
) -> None:
    with pytest.raises(TypeError, match=f"^{name} "):
        made(**{name: value}, **others)


@pytest.mark.parametrize(("made", "name", "others"), NUMBERS)
def test_a_number_of_any_kind_is_that_number(
    made: Callable[..., Any], name: str, others: dict[str, Any]
) -> None:
    for value in (np.array(0.5), np.float32(0.5), torch.tensor([0.5]), 0.5):
        assert made(**{name: value}, **others) == made(**{name: 0.5}, **others)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"program": PowerProgram}, "program is PowerProgram; pass a program that was made"),
        ({"program": None}, "program is NoneType"),
        ({"regularise": 0.1}, "regularise=0.1; pass Regulariser"),
        ({"regularise": "quadratic"}, "regularise='quadratic'; pass Regulariser"),
        ({"sample_size": 0}, "sample_size=0 must be an integer >= 1"),
        ({"sample_size": -5}, "sample_size=-5 must be"),
        ({"sample_size": 1.5}, "sample_size=1.5 is float"),
    ],
)
def test_a_layer_of_something_else_is_refused(arguments: dict[str, Any], found: str) -> None:
    with pytest.raises((TypeError, ValueError), match=found):
        DecisionLayer(**{"program": PowerProgram(), **arguments})


def test_contexts_of_one_dimension_are_refused_with_what_makes_two() -> None:
    layer = DecisionLayer(TorchProgram(1, 1, smooth=lambda y, z, x: ((z - y * x) ** 2).sum()))
    with pytest.raises(
        ValueError, match=r"context has shape \(3,\); expected \(B, d_x\).*unsqueeze"
    ):
        layer(torch.rand(3, 4, 1), context=torch.rand(3))


def test_a_decision_that_has_no_cost_costs_without_end() -> None:
    """A fortune that is lost has no logarithm; NaN would be left out of every mean."""
    growth = TorchProgram(1, 1, smooth=lambda y, z: -(1 + y @ z).log(), lower=0.0, upper=1.0)
    outcome, decision = (
        torch.tensor([[0.5], [-2.0], [0.5]]),
        torch.tensor([[1.0], [1.0], [torch.nan]]),
    )
    cost = growth.realised(outcome.double(), decision.double(), None)
    assert cost[0] == -torch.tensor(1.5, dtype=torch.float64).log()
    assert cost[1] == torch.inf and cost[2].isnan()


def test_a_context_that_a_program_does_not_read_may_hold_anything() -> None:
    outcomes = torch.rand(3, 4, 24, dtype=torch.float64)
    context = torch.full((3, 2), torch.nan, dtype=torch.float64)
    layer = DecisionLayer(PowerProgram())
    assert torch.equal(layer(outcomes, context=context), layer(outcomes))
