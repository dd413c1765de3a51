"""A Dataset refuses arrays and splits that could mislead a run, and says where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffusion_dfl.data import DataError, Dataset
from diffusion_dfl.errors import UserError


def fields(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "name": "toy",
        "source": "simulated",
        "contexts": np.arange(12.0).reshape(6, 2),
        "outcomes": np.arange(18.0).reshape(6, 3),
        "dates": np.arange("2020-01-01", "2020-01-07", dtype="datetime64[D]"),
        "feature_names": ("left", "right"),
        "train": np.array([0, 1, 2]),
        "validation": np.array([3]),
        "test": np.array([4, 5]),
    }
    return good | changes


def with_value(array: np.ndarray, row: int, column: int, value: float) -> np.ndarray:
    changed = array.copy()
    changed[row, column] = value
    return changed


def test_sound_data_are_accepted() -> None:
    assert Dataset(**fields()).outcomes.shape == (6, 3)


def test_test_rows_may_be_out_of_sight() -> None:
    data = Dataset(**fields(test=np.array([], dtype=np.int64)))
    assert data.known.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_rows_to_fit_on_and_to_choose_with_there_must_be(part: str) -> None:
    with pytest.raises(DataError, match=f"the {part} split has no row"):
        Dataset(**fields(**{part: np.array([], dtype=np.int64)}))


def test_known_rows_are_all_but_the_test_rows_gaps_included() -> None:
    data = Dataset(**fields(train=np.array([0]), validation=np.array([3]), test=np.array([4])))
    assert data.known.tolist() == [0, 1, 2, 3, 5]


def test_rows_stand_alone_unless_said_otherwise() -> None:
    data = Dataset(**fields())
    assert (data.block_rows, data.gap_rows) == (1, 0)


@pytest.mark.parametrize("changes", [{"block_rows": 0}, {"gap_rows": -1}])
def test_blocks_without_a_row_and_gaps_below_0_are_refused(changes: dict[str, int]) -> None:
    (name, value), *_ = changes.items()
    with pytest.raises(DataError, match=f"{name}={value} .*block_rows.* at least 1|{name}={value}"):
        Dataset(**fields(**changes))


def test_nan_feature_is_named_with_its_date() -> None:
    contexts = with_value(fields()["contexts"], 2, 1, np.nan)
    with pytest.raises(DataError, match=r"feature right is nan on 2020-01-03"):
        Dataset(**fields(contexts=contexts))


def test_infinite_outcome_is_named_with_its_date() -> None:
    outcomes = with_value(fields()["outcomes"], 5, 2, np.inf)
    with pytest.raises(DataError, match=r"outcome 2 is inf on 2020-01-06"):
        Dataset(**fields(outcomes=outcomes))


def test_rows_without_dates_are_named_by_number() -> None:
    assert Dataset(**fields(dates=None)).row_names.tolist()[:2] == ["row 0", "row 1"]
    with pytest.raises(DataError, match="row 2 is in both train and validation"):
        Dataset(**fields(dates=None, validation=np.array([2, 3])))
    contexts = with_value(fields()["contexts"], 4, 0, np.nan)
    with pytest.raises(DataError, match="feature left is nan on row 4"):
        Dataset(**fields(dates=None, contexts=contexts))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": np.array([2, 3])}, "2020-01-03 is in both train and validation"),
        ({"test": np.array([3, 4])}, "2020-01-04 is in both validation and test"),
        ({"train": np.array([], dtype=np.int64)}, "the train split has no row"),
        ({"test": np.array([4, 6])}, "outside 0..5"),
        ({"train": np.array([1, 0])}, "sorted without repeats"),
        ({"train": np.array([0, 0])}, "sorted without repeats"),
        ({"train": np.array([True, False])}, "integer rows"),
        ({"outcomes": np.ones((5, 3))}, "5 of outcomes; each context needs one"),
        ({"outcomes": np.ones(6)}, "outcomes must be a float64 matrix"),
        ({"contexts": np.ones((6, 2), dtype=np.float32)}, "float32"),
        ({"feature_names": ("left",)}, "2 context columns but 1 feature names"),
        ({"feature_names": ("left", "left")}, "feature names repeat"),
        ({"dates": np.arange(6)}, r"dates must be datetime64\[D\]"),
        ({"dates": fields()["dates"][:5]}, r"6 rows of contexts and dates of shape \(5,\)"),
        ({"source": "invented"}, "source is 'invented'"),
    ],
)
def test_unsound_data_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(**fields(**changes))


def test_rows_of_weight_0_are_not_counted_and_without_weights_all_are() -> None:
    rows = np.array([0, 1, 2])
    assert Dataset(**fields()).counted(rows).tolist() == [0, 1, 2]
    data = Dataset(**fields(weights=np.array([0.0, 3.0, 0.5, 1.0, 0.0, 0.0])))
    assert data.counted(rows).tolist() == [1, 2]
    assert data.known.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(5), r"weights must be a float64 vector of 6 numbers.*of shape \(5,\)"),
        (np.ones((6, 1)), r"weights must be .*of shape \(6, 1\)"),
        (np.ones(6, dtype=np.int64), "weights must be a float64 vector .*int64"),
        (np.array([1, -0.5, 1, 1, -1, 1]), r"weights: that of 2020-01-02 is -0.5 \(2 such values"),
        (np.array([1, 1, 1, 1, 1, np.nan]), r"2020-01-06 is nan .*finite number >= 0, 0 to leave"),
        (np.array([np.inf, 1, 1, 1, 1, 1]), "2020-01-01 is inf"),
        (np.array([0.0, 0, 0, 1, 1, 1]), "those of all 3 train rows are 0"),
        (np.array([1.0, 1, 1, 0, 1, 1]), "those of all 1 validation rows are 0"),
    ],
)
def test_weights_that_are_none_are_refused(weights: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(**fields(weights=weights))


def test_data_errors_are_user_errors() -> None:
    assert issubclass(DataError, UserError)
