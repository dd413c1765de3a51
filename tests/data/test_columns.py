"""What users name columns by, and what they hand in for contexts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from diffusion_dfl import GaussianPredictor, Newsvendor, Reparam, TrainingSettings, train
from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.errors import UserError
from diffusion_dfl.tasks.frame import FrameTask, task_from_frame
from diffusion_dfl.training.fitted import Fitted

SHORT = TrainingSettings(epochs=1, batch_size=32, learning_rate=1e-3)


def frame(names: Any = ("a", "b", "y")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=(60, 2)), rng.uniform(1, 2, 60)])
    return pd.DataFrame(values, columns=list(names))


def task(
    data: pd.DataFrame | None = None, context: Any = ("a", "b"), outcome: Any = ("y",)
) -> FrameTask:
    return task_from_frame("s", Newsvendor(), frame() if data is None else data, context, outcome)


@pytest.mark.parametrize(
    "names",
    [pd.Index, np.array, iter, tuple, lambda names: (name for name in names)],
)
def test_columns_may_come_in_any_row_of_names(names: Callable[[Any], Any]) -> None:
    made = task(context=names(["a", "b"]), outcome=names(["y"]))
    assert np.array_equal(made.dataset.contexts, task().dataset.contexts)


def test_columns_may_be_numbers() -> None:
    numbered = frame(range(3))
    made = task(numbered, [0, 1], [2])
    assert np.array_equal(made.dataset.outcomes, task().dataset.outcomes)
    for context, outcome, found in (
        ([0, 5], [2], "found no 5"),
        ([0, 1, 0], [2], r"columns repeat: 0\."),
        ([0], [1, 2], "names 2 columns: 1, 2"),
    ):
        with pytest.raises(DataError, match=found):
            task(numbered, context, outcome)


def test_what_names_no_columns_is_refused() -> None:
    with pytest.raises(DataError, match="context=3: expected a list of columns"):
        task(context=3)
    with pytest.raises(DataError, match="the frame has no rows"):
        task(pd.DataFrame(columns=["a", "b", "y"]))


@pytest.mark.parametrize("kind", ["text", "datetime", "seconds", "zone"])
def test_a_date_far_beyond_nanoseconds_comes_last(kind: str) -> None:
    """Nanoseconds end in 2262; 9999 is a usual word for never."""
    days = [f"2024-01-{day:02d}" for day in range(1, 29)] + ["9999-12-31"]
    stamps: Any = {
        "text": days,
        "datetime": [pd.Timestamp(day).to_pydatetime() for day in days],
        "seconds": np.array(days, dtype="datetime64[s]"),
        "zone": [pd.Timestamp(day, tz="UTC").to_pydatetime() for day in days],
    }[kind]
    data = frame().iloc[: len(days)].assign(day=stamps, a=np.arange(float(len(days))))
    made = task_from_frame("s", Newsvendor(), data, ["a"], ["y"], date="day")
    assert np.array_equal(made.dataset.contexts[:, 0], np.arange(len(days)))


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return train(task(), GaussianPredictor, Reparam(8), fit=SHORT, train=SHORT)


@pytest.mark.parametrize(
    ("contexts", "found"),
    [
        ({"a": [1.0], "b": [2.0]}, "is dict that holds no numbers.*or a data frame"),
        ([["1", "2"]], "is list that holds no numbers"),
        ([[1.0, 2.0], [1.0]], "rows of different lengths"),
        (np.array([["2024-01-01", "2024-01-02"]], dtype="datetime64[D]"), "holds no numbers"),
        ([[1.0]], r"shape \(1, 1\); expected \(N, 2\)"),
    ],
)
def test_contexts_that_are_no_numbers_are_refused(
    fitted: Fitted, contexts: Any, found: str
) -> None:
    with pytest.raises(UserError, match=found):
        fitted.decide(contexts)


def test_contexts_of_half_precision_are_numbers(fitted: Fitted) -> None:
    found = fitted.decide(torch.ones(1, 2, dtype=torch.bfloat16))
    assert np.array_equal(found.decision, fitted.decide([[1.0, 1.0]]).decision)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["1.5", "2"] * 20, "pandas.to_numeric"),
        ([1.0, 1e40] * 20, "1e\\+40 in row 1 .20 such values in all., which single precision"),
        ([1.0 + 2.0j] * 40, "complex128; expected real numbers"),
    ],
)
def test_a_column_that_cannot_be_computed_with_is_refused_with_the_mend(
    values: list[Any], found: str
) -> None:
    made = frame(["a", "b", "y"]).head(40).assign(a=values)
    with pytest.raises(DataError, match=f"context column a is .*{found}"):
        task(made, ["a", "b"], ["y"])
