"""Numbers that a component of the library cannot have are refused by their name, where it is made."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest

import diffusion_dfl as ddfl

#: Of arguments without a default.
GIVEN = {
    "context_size": 2, "outcome_size": 2, "num_decisions": 2, "epochs": 2, "batch_size": 4,
    "learning_rate": 1e-3, "num_scenarios": 8, "kind": "quadratic", "weight": 1.0,
}  # fmt: skip
MADE = (
    "BaseModels", "CostWeighted", "DecisionRule", "DeterministicPredictor", "DiffusionPredictor",
    "ElboSurrogate", "FlowPredictor", "GaussianPredictor", "MeanVariancePortfolio", "Newsvendor",
    "PolicyNetwork", "PowerProgram", "ProductAllocation", "Regulariser", "Reparam", "ResidualBootstrap",
    "Sampling", "Score", "ScorePath", "SetScore", "TrainingSettings",
)  # fmt: skip
#: What is a value all the same: no clip, no end, no limit, a bound of a logarithm, a price.
SOUND = {
    ("gradient_clip", math.inf), ("divergence_factor", math.inf), ("clip", math.inf), ("c0", -1),
    ("ramp", math.inf), ("min_log_variance", -1), ("max_log_variance", -1),
}  # fmt: skip


def wrong() -> Iterator[Any]:
    for name in MADE:
        made = getattr(ddfl, name)
        taken = inspect.signature(made).parameters
        needed = {key: GIVEN[key] for key, one in taken.items() if one.default is one.empty}
        for key, one in taken.items():
            usual = needed.get(key, one.default)
            if isinstance(usual, bool) or not isinstance(usual, int | float):
                continue
            for value in (-1, math.nan, math.inf, *([2.5, True] if isinstance(usual, int) else [])):
                if (key, value) not in SOUND:
                    yield pytest.param(made, needed, key, value, id=f"{name}-{key}={value}")


@pytest.mark.parametrize(("made", "needed", "key", "value"), list(wrong()))
def test_a_number_that_cannot_be_is_refused_by_name(
    made: Any, needed: dict[str, Any], key: str, value: Any
) -> None:
    made(**needed)
    with pytest.raises((TypeError, ValueError), match=f"{key}={value}"):
        made(**{**needed, key: value})
