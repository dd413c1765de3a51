"""The benchmark script writes what it promises, on sizes too small to measure anything."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from diffusion_dfl.programs import MeanVariancePortfolio
from diffusion_dfl.solvers import solve
from tests.processes import forked

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {
    "name",
    "status",
    "instances",
    "forward_ms",
    "both_ms",
    "ratio_forward",
    "ratio_both",
    "gap",
    "kkt",
    "violation",
    "decision_difference",
    "gradient_difference",
}


def run(folder: Path, *words: str) -> dict:  # type: ignore[type-arg]
    pytest.importorskip("matplotlib")
    small = ("solvers", "--quick", "--output", str(folder))
    done = forked(ROOT / "scripts" / "benchmark.py", *small, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "solvers.json").read_text(encoding="utf-8"))


def check(record: dict, folder: Path) -> None:  # type: ignore[type-arg]
    for case in record["cases"]:
        ours, *peers = case["results"]
        assert set(ours) >= COLUMNS
        assert ours["name"] == "ours" and ours["status"] == "ran"
        assert ours["gap"] <= case["goal_error"] and ours["kkt"] <= case["goal_error"]
        for peer in peers:
            # These state the matrices that scripts/benchmarks/quadratic.py writes down.
            if peer["status"] == "ran" and peer["name"].startswith(("moreau", "qpsolvers")):
                assert abs(peer["gap"]) <= 1e-5
            assert peer["status"] == "ran" or peer["status"].split()[0] in ("not", "failed:")
            assert (peer["forward_ms"] is not None) == (peer["status"] == "ran")
    environment = record["environment"]
    assert environment["threads"] == 1 and environment["device"] == "cpu"
    assert str(ROOT) not in json.dumps(record)
    table = (folder / "solvers.md").read_text(encoding="utf-8")
    assert all(case["title"] in table for case in record["cases"])
    assert (folder / "solvers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_case_and_sweep_is_reported(tmp_path: Path) -> None:
    record = run(tmp_path)
    check(record, tmp_path)
    assert len(record["cases"]) == 7
    assert {sweep["along"] for sweep in record["scaling"]} == {"B", "M", "n"}


@pytest.mark.slow
def test_some_cases_can_be_picked(tmp_path: Path) -> None:
    record = run(tmp_path, "--cases", "newsvendor", "portfolio", "--no-scaling")
    check(record, tmp_path)
    assert [case["name"] for case in record["cases"]] == ["portfolio", "newsvendor"]
    assert record["scaling"] == []


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("name", ["power", "power_binding", "portfolio", "newsvendor"])
def test_kkt_residual_sees_a_decision_moved_by_a_millionth(name: str) -> None:
    from benchmarks.cases import CASES, quick
    from benchmarks.errors import kkt_residual

    case = quick(next(case for case in CASES if case.name == name))
    scenarios = case.scenarios()
    solution = solve(case.program, scenarios)
    width = torch.zeros_like(scenarios[:, 0])
    assert kkt_residual(case.program, scenarios, width, solution) <= 1e-12
    moved = dataclasses.replace(solution, decision=solution.decision + 1e-6)
    assert kkt_residual(case.program, scenarios, width, moved) >= 1e-9


@pytest.mark.usefixtures("benchmarks")
def test_gap_is_the_cost_above_the_optimum() -> None:
    from benchmarks.errors import best_exact, mean_cost

    program = MeanVariancePortfolio(2, risk_aversion=0.0)
    scenarios = torch.tensor([[[1.0, 3.0]]], dtype=torch.float64)
    best, _ = best_exact(program, scenarios, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    half = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    # The best return is 3, half and half returns 2.
    assert best.gap(mean_cost(program, scenarios, half)) == pytest.approx(1 / 3)


@pytest.mark.usefixtures("benchmarks")
def test_exponent_is_the_slope_in_logarithms() -> None:
    from benchmarks.scaling import slope

    points = [(math.log(size), math.log(5 * size**1.5)) for size in (2, 8, 64)]
    assert slope(points) == pytest.approx(1.5)


@pytest.mark.slow
def test_problems_of_users_are_solved_and_reported(tmp_path: Path) -> None:
    pytest.importorskip("cvxpylayers")
    words = ["users", "--batch", "4", "--scenarios", "10", "--rounds", "1", "--output"]
    done = forked(ROOT / "scripts" / "benchmark.py", *words, str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "users.json").read_text())
    assert len(rows) == 7
    assert all(row["gap"] <= 1e-8 and row["gradient"] <= 1e-5 for row in rows)
    assert not any(row["unsolved"][name] for row in rows for name in ("ours, exact",))
    assert (tmp_path / "users.md").read_text().count("\n|") == 9
