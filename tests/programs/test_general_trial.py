"""What a user's functions and constraints may not be, and what the message says."""

import math
import re
from functools import partial
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import (
    Hinge,
    Instances,
    Recourse,
    TorchProgram,
    TwoStageProgram,
    conditional_value_at_risk,
)
from tests.programs.general_cases import D


def bad(**parts: Any) -> None:
    """A program with a fault, as the first solve meets it."""
    parts = {"smooth": lambda y, z: (z**2).sum(), **parts}
    program = TorchProgram(2, 2, **parts)
    program.validate(Instances.of(torch.ones(1, 3, 2, **D)))


def value(y: Tensor, z: Tensor) -> Tensor:
    return -(y @ z)


def in_place(y: Tensor, z: Tensor) -> Tensor:
    z[0] = 0.0
    return z.sum()


def branching(y: Tensor, z: Tensor) -> Tensor:
    return z.sum() if bool(z[0] > 0) else -z.sum()


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"smooth": lambda y, z: z}, r"smooth\(y, z\) returned shape \(2,\).*sum"),
        ({"smooth": lambda y, z: 1.0}, r"smooth\(y, z\) returned float"),
        ({"smooth": lambda y, z: z.float().sum()}, r"float32.*float64"),
        ({"smooth": lambda y, z: (y[:1] @ z).sum()}, r"smooth\(y, z\) failed"),
        ({"smooth": in_place}, "writes into its arguments"),
        ({"smooth": branching}, "does not vectorise.*torch.where"),
        ({"smooth": lambda y, z: z.sum() * y[0].item()}, "does not vectorise"),
        ({"smooth": lambda y, z: (z.detach() ** 2).sum()}, "not differentiable in z"),
        ({"smooth": lambda y, z: (y.detach() * z).sum()}, "not differentiable in y"),
        ({"smooth": lambda y, z: z.sum() * math.nan}, "NaN or infinite at every trial point"),
        ({"smooth": lambda y, z: z.sum() + torch.rand((), **D)}, "other values|vectorise"),
        ({"hinges": [Hinge(1.0, lambda y, z: z**2 - y)]}, r"hinges\[0\].*not affine in z.*smooth"),
        ({"hinges": [Hinge((1.0, 2.0, 3.0), lambda y, z: z - y)]}, "2 values"),
        ({"hinges": [Hinge(1.0, lambda y, z: torch.outer(y, z))]}, r"shape \(2, 2\)"),
        (
            {"inequality": lambda x, z: z @ z, "num_inequalities": 2},
            r"inequality\(x, z\) returned 1 values; num_inequalities=2",
        ),
        ({"inequality": lambda x, z: -(z @ z), "num_inequalities": 1}, "not convex in z"),
        ({"inequality": lambda x, z: z[0] - x[0], "num_inequalities": 1}, "without the context"),
        (
            {"matrix": torch.ones(1, 2, **D), "limit": lambda x: x},
            r"limit depends on the context; pass context",
        ),
    ],
)
def test_what_torch_func_cannot_take_is_named_with_its_mend(
    parts: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        bad(**parts)


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"smooth": None}, "needs a cost"),
        ({"hinges": [lambda y, z: z]}, "Hinge"),
        ({"matrix": torch.ones(1, 2)}, "matrix and limit come together"),
        ({"matrix": torch.ones(1, 3), "limit": 1.0}, "matrix has shape"),
        ({"lower": torch.zeros(3)}, "lower has shape"),
        ({"equality_matrix": torch.ones(1, 2), "equality_value": torch.ones(3)}, "equality_value"),
        ({"inequality": lambda x, z: z}, "num_inequalities=0"),
        ({"num_decisions": 0}, "num_decisions=0"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_the_program_is_made(
    parts: dict[str, Any], message: str
) -> None:
    given = {"num_decisions": 2, "num_outcomes": 2, "smooth": lambda y, z: z.sum(), **parts}
    with pytest.raises((ValueError, TypeError), match=message):
        TorchProgram(**given)


@pytest.mark.parametrize("coefficient, power", [(-1.0, 1), (math.nan, 1), (1.0, 4)])
def test_a_hinge_has_coefficients_of_at_least_zero_and_power_1_to_3(
    coefficient: float, power: int
) -> None:
    with pytest.raises(ValueError, match="hinge"):
        Hinge(coefficient, lambda y, z: y - z, power)


def test_without_a_reference_there_is_no_cvxpy_statement() -> None:
    program = TorchProgram(2, 2, smooth=lambda y, z: (z**2).sum())
    with pytest.raises(TypeError, match="reference="):
        program.cvxpy_problem(np.ones((3, 2)), np.ones(3) / 3)


@pytest.mark.parametrize("part", [{"integer": True}, {"boolean": [0, 1]}, {"binary": True}])
@pytest.mark.parametrize(
    "state",
    [
        partial(TorchProgram, 2, 2),
        partial(conditional_value_at_risk, value, 0.9, 2, 2),
        partial(TwoStageProgram, 2, 2, Recourse(1)),
        partial(Recourse, 2),
    ],
    ids=["one stage", "tail", "two stages", "recourse"],
)
def test_integers_are_refused_by_name_with_the_ways_there_are(
    state: Any, part: dict[str, Any]
) -> None:
    (name, given), *_ = part.items()
    told = f"{name}={given}: integer programs are not solved here"
    with pytest.raises(TypeError, match=rf"{re.escape(told)}.*lower=0\. and upper=1\..*PyEPO"):
        state(smooth=value, lower=0.0, upper=1.0, **part)


def test_another_argument_that_is_none_is_pythons_to_refuse() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'whole'"):
        TorchProgram(2, 2, smooth=value, whole=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", ["integer", "boolean"])
@pytest.mark.parametrize("solver", ["cvxpy", "cvxpylayers"])
def test_a_reference_with_integers_is_refused_by_the_variables_name(kind: str, solver: Any) -> None:
    if solver == "cvxpylayers":
        pytest.importorskip("cvxpylayers")

    def reference(scenarios: Any, weights: Any) -> tuple[Any, Any, list[Any]]:
        z = cp.Variable(2, name="take", **{kind: True})
        limits = [z >= 0, z <= 1]
        return cp.Problem(cp.Minimize(-(weights @ scenarios) @ z), limits), z, limits

    program = TorchProgram(2, 2, smooth=value, lower=0.0, upper=1.0, reference=reference)
    with pytest.raises(ValueError, match=r"integer variables \(take\): .*PyEPO"):
        DecisionLayer(program, solver=solver)(torch.ones(1, 3, 2, **D))
