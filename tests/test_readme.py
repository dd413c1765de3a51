"""The README's main command and its code work as written; tests/test_docs_commands.py has the rest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_dfl.suite.reporting.summary import BEGIN, END
from tests.commands import ROOT, blocks, commands
from tests.processes import forked

README = (ROOT / "README.md").read_text(encoding="utf-8")

# Appended to training commands: the same command line, on little data.
SMALL = [
    "data=simulated",
    "data.num_days=150",
    "scale=smoke",
    "foundation.epochs=1",
    "fit.epochs=1",
    "train.epochs=1",
    "decision.num_scenarios=10",
    "evaluation.num_large=20",
]


def test_python_block_runs_and_gives_a_gradient() -> None:
    (block,) = [one.text for one in blocks("README.md") if "import torch" in one.text]
    names: dict[str, object] = {}
    exec(block, names)
    scenarios = names["scenarios"]
    assert scenarios.grad is not None  # type: ignore[attr-defined]
    assert scenarios.grad.shape == (8, 50, 3)  # type: ignore[attr-defined]
    assert float(scenarios.grad.abs().sum()) > 0  # type: ignore[attr-defined]


@pytest.mark.slow
def test_ten_seed_command_as_typed_trains_ten_seeds(tmp_path: Path) -> None:
    (line,) = [one.text for one in commands("README.md") if "seed=0-9" in one.text]
    words = line.split()[1:]
    # The words as typed; what makes it small goes before them.
    command = [sys.executable, words[0], *SMALL, f"output.root={tmp_path}", *words[1:]]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^power diffusion-score seed \d", result.stdout, re.MULTILINE)) == 10
    assert len(list(tmp_path.glob("runs/smoke/power/diffusion-score-*/seed-*/summary.json"))) == 10


@pytest.mark.slow
def test_bare_call_names_the_simulated_data_it_uses() -> None:
    result = subprocess.run(
        [sys.executable, "train.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "DIFFUSION_DFL_DATA"},
    )
    assert result.returncode == 0, result.stderr
    assert "data=simulated" in result.stderr
    assert "simulated data, scale smoke" in result.stdout


def test_table_command_renders_the_committed_records_without_changing_the_committed_table() -> None:
    target = ROOT / "results" / "tables" / "table1.md"
    result = forked(ROOT / "scripts" / "make_tables.py", "--published")
    assert result.returncode == 0, result.stderr
    assert "Diffusion score function" in result.stdout
    assert target.read_text(encoding="utf-8").strip() in result.stdout


def test_status_and_missing_account_for_every_run_of_the_tables() -> None:
    told, left = (forked(ROOT / "scripts" / "status.py", *words) for words in ([], ["--missing"]))
    assert told.returncode == left.returncode == 0, told.stderr + left.stderr
    assert " of 520 runs are finished" in told.stdout
    assert all(line.startswith("python train.py task=") for line in left.stdout.splitlines())


def test_the_table_is_the_one_that_make_readme_writes(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    block = README.split(BEGIN)[1].split(END)[0]
    copy.write_text(README.replace(block, "\n"), encoding="utf-8")
    made = forked(ROOT / "scripts" / "make_tables.py", "--readme", str(copy))
    assert made.returncode == 0, made.stderr
    assert copy.read_text(encoding="utf-8") == README


def test_the_picture_and_every_link_are_there() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    local = [target for target in targets if not target.startswith("https://")]
    assert len(local) >= 10
    assert [target for target in local if not (ROOT / target.partition("#")[0]).exists()] == []
