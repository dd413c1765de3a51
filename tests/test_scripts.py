"""Scripts that the docs name run from the command line."""

from pathlib import Path

import pytest

from tests.processes import ROOT, forked


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
    finished = forked(ROOT / "scripts" / arguments[0], *arguments[1:])
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout


def test_the_exact_denoiser_of_unit_variance_keeps_it_with_sigma_beta() -> None:
    finished = forked(ROOT / "scripts" / "sampler_variance.py")
    assert finished.returncode == 0, finished.stderr
    row = next(line for line in finished.stdout.splitlines() if "beta" in line and "| 10 |" in line)
    assert row.split("|")[3].strip() == "1.00"


def test_the_laboratory_says_which_run_it_needs(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "gradient_lab.py"
    finished = forked(script, "variance", "--results", str(tmp_path))
    assert finished.returncode == 2
    assert "run `python train.py model=diffusion grad=two_stage` first" in finished.stderr


@pytest.mark.parametrize(
    "script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda one: one.name
)
def test_a_script_is_a_command_and_no_more(script: Path) -> None:
    """What it does is in the package, where it is tested and typed beside its relatives."""
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 100
