"""`make demo`: the caveat first, a table a reader can read, and the next command to type last."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from diffusion_dfl.suite.reporting.columns import aligned, methods
from diffusion_dfl.suite.reporting.table1 import build
from tests.commands import NOT_RUN, ROOT
from tests.suite.reporting.records import frame_of, summary, wanted


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "scripts" / "demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def columns(text: str) -> dict[str, list[str]]:
    """First column -> the others, of an aligned table."""
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    return {name: cells for name, *cells in rows}


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned(["Name", "N"], [["a", "10.5"], ["longer", ""]]) == (
        "Name       N\n------------\na       10.5\nlonger"
    )


def test_the_table_names_methods_that_ran_and_no_others(tmp_path: Path) -> None:
    records = [
        summary("gaussian", "score", 0, 2.5, {"crps": 0.03, "baselines": {"saa": 15.0}}),
        summary("policy", "policy", 0, 3.0, {"coverage_90": None}),
    ]
    text = methods(build(frame_of(tmp_path, records), wanted()))
    assert columns(text) == {
        "Method": ["Cost", "CRPS", "Coverage", "Seconds"],
        "-" * len(text.splitlines()[1]): [],
        "Policy-based learning": ["3.000", "60"],
        "Gaussian score function": ["2.500", "0.0300", "90 %", "60"],
        "(Sample average of the training loads)": ["15.000"],
    }
    assert "|" not in text and "missing" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_it_ends_with_a_command_that_is_tested(demo: ModuleType) -> None:
    command = demo.COMMAND.rpartition("&& ")[2]
    assert command in NOT_RUN and (ROOT / command.split()[1]).exists()
    assert demo.CAVEAT.startswith("Simulated load, small networks")


def test_every_column_is_explained_and_the_row_that_pays_for_the_fit_is_made_first(
    demo: ModuleType,
) -> None:
    for column in ("Cost", "CRPS", "Coverage", "Seconds"):
        assert f"{column}:" in demo.READING
    for words in demo.SWEEPS[:2]:
        (grads,) = (word for word in words if word.startswith("grad="))
        assert grads.startswith("grad=two_stage,")


@pytest.mark.slow
def test_every_method_runs_and_the_diffusion_is_no_worse_than_its_neighbours(
    demo: ModuleType, tmp_path: Path
) -> None:
    made = ROOT / "results"  # By `make demo`, as in CI; a finished run is skipped.
    results = made if (made / "runs" / "demo").is_dir() else tmp_path
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(demo.CAVEAT) and done.stdout.count("one seed") == 1
    assert done.stdout.rstrip().endswith(demo.COMMAND)
    rows = columns(methods(demo.table_of(results)))
    cost = {name: float(cells[0]) for name, cells in rows.items() if cells and name != "Method"}
    assert len(cost) == 12 + 3
    plain = [value for name, value in cost.items() if name.startswith("(")]
    for name in ("Diffusion TS", "Diffusion reparameterization", "Diffusion score function"):
        assert cost[name] < min(plain)
        assert cost[name] < 1.1 * cost["Gaussian TS"]
