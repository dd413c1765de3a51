"""Scripts that the docs name run from the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["sampler_variance.py"],
        ["gradient_lab.py", "--help"],
        ["feature_study.py", "--help"],
        ["make_search_table.py", "--results", "nowhere"],
        ["fetch_data.py", "--help"],
        ["benchmark.py", "memory", "--help"],
        ["benchmark.py", "sweeps", "--help"],
        ["chaos.py", "--help"],
        ["wandb_sync.py", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_script_of_the_docs_runs(arguments: list[str]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / arguments[0]), *arguments[1:]]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout


def test_the_exact_denoiser_of_unit_variance_keeps_it_with_sigma_beta() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "sampler_variance.py")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    row = next(line for line in finished.stdout.splitlines() if "beta" in line and "| 10 |" in line)
    assert row.split("|")[3].strip() == "1.00"


def test_the_laboratory_says_which_run_it_needs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gradient_lab.py"), "variance"]
    finished = subprocess.run(
        [*command, "--results", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert "run `python train.py model=diffusion grad=two_stage` first" in finished.stderr
