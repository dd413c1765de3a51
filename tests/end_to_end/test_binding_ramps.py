"""Training where the ramps bind: the fast solver alone does it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
sys.argv = ["train.py", *{overrides!r}]
import runpy
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print("cvxpy" in sys.modules)
"""


def test_training_with_ramp_5_percent_never_loads_the_reference_solver(tmp_path: Path) -> None:
    overrides = [
        "data=simulated",
        "data.num_days=150",
        "scale=smoke",
        "model=gaussian",
        "grad=reparam,score",
        "-m",
        "task.ramp=0.05",
        "fit.epochs=2",
        "train.epochs=1",
        "decision.num_scenarios=20",
        "evaluation.num_large=20",
        f"output.root={tmp_path}",
    ]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(overrides=overrides)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"
    paths = list(tmp_path.glob("runs/smoke/power/gaussian-*/seed-0/summary.json"))
    assert len(paths) == 2
    for path in paths:
        summary = json.loads(path.read_text())
        assert summary["test"]["solver_failures"] == 0
        assert summary["validation"]["solver_failures"] == 0
