"""The frame of runs: one row a run, a column a number."""

import json
from pathlib import Path

import pytest

from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from tests.suite.reporting.records import TWIN, frame_of, summary

ROOT = Path(__file__).resolve().parents[3]


def test_a_run_is_a_row_with_its_identity_and_every_number_of_its_record(tmp_path: Path) -> None:
    test = {"baselines": {"saa": 4.0}, "interval_95": [1.0, 2.0]}
    runs = frame_of(tmp_path, [summary("diffusion", "score", 3, 2.5, test, differs=TWIN)])
    (run,) = runs.to_dict("records")
    assert (run["model"], run["grad"], run["seed"]) == ("diffusion", "score", 3)
    assert json.loads(run["differs"]) == TWIN
    assert (run["published"], run["role"], run["preset"]) == (True, "twin", "h")
    assert run["test.task"] == 2.5
    assert run["test.baselines.saa"] == 4.0
    assert (run["test.interval_95.0"], run["test.interval_95.1"]) == (1.0, 2.0)
    assert (run["timing.total"], run["resources.device"]) == (60.0, "cpu")


def test_what_a_record_lacks_or_has_as_null_is_nan(tmp_path: Path) -> None:
    new = summary("diffusion", "score", 0, 2.5, {"crps": 0.5, "num_rows": 10})
    old = summary("policy", "policy", 0, 2.5, {"crps": None})
    runs = frame_of(tmp_path, [new, old])
    assert runs["test.crps"].tolist()[0] == 0.5
    assert runs["test.crps"].isna().tolist() == [False, True]
    assert runs["test.num_rows"].isna().tolist() == [False, True]


def test_a_column_of_nulls_alone_is_numeric(tmp_path: Path) -> None:
    runs = frame_of(tmp_path, [summary("policy", "policy", 0, 2.5, {"crps": None})])
    assert runs["test.crps"].dtype == float


def test_no_records_make_an_empty_frame(tmp_path: Path) -> None:
    assert frame(collect(tmp_path)).empty


def test_every_committed_record_is_read() -> None:
    collection = collect(ROOT / "results", own=False)
    assert collection.left_out == []
    runs = frame(collection)
    assert len(runs) == len(collection.archive.entries)
    assert runs["test.task"].notna().all()
    power = runs[(runs["task"] == "power") & (runs["differs"] == "{}")]
    assert power.groupby(["model", "grad"])["seed"].nunique().to_dict() == pytest.approx(
        dict.fromkeys(power.groupby(["model", "grad"]).groups, 10)
    )
