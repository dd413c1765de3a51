"""Collecting records and rendering Table 1."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.reporting.collect import collect
from diffusion_dfl.reporting.paper import ROWS, TABLE_1
from diffusion_dfl.reporting.table1 import Selection, mean_and_error, render, render_twins, select

WANTED = Selection(
    "power", "laptop", "real", {("diffusion", "score"): "h", ("gaussian", "score"): "h"}
)


def summary(model: str, seed: int, task: float, **changes: Any) -> dict[str, Any]:
    identity = {
        "task": "power",
        "model": model,
        "grad": "score",
        "scale": "laptop",
        "source": "real",
        "seed": seed,
        "config_hash": "h",
        "source_hash": "s",
        "differs": {},
    }
    identity.update(changes)
    test = {
        "task": task,
        "task_exact": task + 1,
        "task_at_500": task,
        "rmse_scenario": 0.1,
        "crps": None,
        "coverage_90": 0.9,
        "solver_failures": 2,
    }
    return {
        "schema": 1,
        "identity": identity,
        "test": test,
        "validation": {"diverged": False},
        "timing": {"total": 60.0},
    }


def write(root: Path, name: str, record: Any, status: str = "finished") -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    (folder / "status.json").write_text(json.dumps({"status": status, "reason": "because"}))
    text = record if isinstance(record, str) else json.dumps(record)
    (folder / "summary.json").write_text(text)


def row(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_mean_and_standard_error_of_three_seeds() -> None:
    mean, error = mean_and_error([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert error == pytest.approx(1.0 / math.sqrt(3))
    assert math.isnan(mean_and_error([1.0])[1])


def test_table_shows_ours_beside_the_paper_and_missing_cells(tmp_path: Path) -> None:
    for seed, task in enumerate((3.0, 3.2)):
        write(tmp_path / "published", f"a/seed-{seed}", summary("diffusion", seed, task))
    cells, stale = select(collect(tmp_path).records, WANTED)
    text = render(cells, WANTED, stale)
    ours = row(text, "Diffusion score function")
    assert ours[1:3] == ["2.893 ± 0.03", "3.171 ± 0.02"]
    assert ours[4] == "**3.100 ± 0.100**"
    assert ours[-1] == "2"
    assert row(text, "Gaussian score function")[3:] == ["missing"] * 7 + ["0"]
    assert "Solver failures: 4" in text


def test_own_run_takes_the_place_of_the_committed_record(tmp_path: Path) -> None:
    write(tmp_path / "published", "a/seed-0", summary("diffusion", 0, 3.0))
    write(tmp_path / "runs", "a/seed-0", summary("diffusion", 0, 2.0))
    (record,) = collect(tmp_path).records
    assert record.summary["test"]["task"] == 2.0
    assert not record.published


@pytest.mark.parametrize(
    ("record", "status", "reason"),
    [
        ("{", "finished", "not JSON"),
        ({"schema": 99}, "finished", "another schema"),
        (summary("diffusion", 0, math.nan), "finished", "task is nan"),
        (summary("diffusion", 0, 3.0), "failed", "failed because"),
        (summary("diffusion", 0, 3.0), "running", "running"),
    ],
)
def test_broken_and_unfinished_runs_are_named_not_counted(
    tmp_path: Path, record: Any, status: str, reason: str
) -> None:
    write(tmp_path / "runs", "a/seed-0", record, status)
    found = collect(tmp_path)
    assert found.records == []
    assert reason in found.left_out[0]


def test_tables_never_mix_sources_scales_variants_or_old_presets(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"source": "simulated", "differs": {"data.source": "simulated"}},
        {"scale": "smoke"},
        {"differs": {"decision.bandwidth_scale": 9.0}},
        {"config_hash": "old"},
    ]
    for number, change in enumerate(changes):
        write(tmp_path / "runs", f"{number}/seed-0", summary("diffusion", 0, 1.0, **change))
    cells, stale = select(collect(tmp_path).records, WANTED)
    assert cells == {}
    assert stale == 1


def test_twins_are_compared_over_the_seeds_both_have(tmp_path: Path) -> None:
    twin = {"differs": {"grad.decision_weight": 0.0}, "config_hash": "t"}
    for seed in range(3):
        write(tmp_path / "runs", f"own/seed-{seed}", summary("diffusion", seed, 3.0 + seed))
    for seed in range(2):
        write(tmp_path / "runs", f"twin/seed-{seed}", summary("diffusion", seed, 4.0, **twin))
    text = render_twins(collect(tmp_path).records, WANTED)
    assert row(text, "Diffusion score function")[1:] == [
        "4.000 ± 0.000",
        "3.500 ± 0.500",
        "-0.500 ± 0.500",
        "2",
    ]


def test_every_row_of_the_paper_has_a_printed_power_value_and_the_path_score_has_none() -> None:
    rows = {(model, grad) for _, _, model, grad in ROWS}
    assert rows - set(TABLE_1["power"]) == {("diffusion", "score_path")}
    assert set(TABLE_1["power"]) < rows


def test_tuning_runs_are_counted_apart(tmp_path: Path) -> None:
    write(tmp_path / "runs", "a/seed-0", {**summary("diffusion", 0, 3.0), "test": {}})
    found = collect(tmp_path)
    assert (found.records, found.left_out, found.tuning) == ([], [], 1)
