"""Training where the ramps bind: the fast solver alone does it."""

import json
from pathlib import Path

import pytest

from tests.processes import forked

PROGRAM = """
import sys
# As in a process that has loaded nothing of either yet.
for name in [name for name in sys.modules if name.split(".")[0] in ("cvxpy", "diffusion_dfl")]:
    del sys.modules[name]
sys.argv = ["train.py", *{overrides!r}]
import runpy
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print("cvxpy" in sys.modules)
"""


@pytest.mark.slow
def test_training_with_ramp_5_percent_never_loads_the_reference_solver(tmp_path: Path) -> None:
    overrides = [
        "data=simulated",
        "data.num_days=150",
        "scale=smoke",
        "model=gaussian",
        "grad=reparam,score",
        "-m",
        "task.ramp=0.05",
        "fit.epochs=1",
        "train.epochs=1",
        "model.width=16",
        "decision.num_scenarios=8",
        "evaluation.num_large=8",
        f"output.root={tmp_path}",
    ]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(overrides=overrides))
    result = forked(program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"
    paths = list(tmp_path.glob("runs/smoke/power/gaussian-*/seed-0/summary.json"))
    assert len(paths) == 2
    for path in paths:
        summary = json.loads(path.read_text())
        assert summary["test"]["solver_failures"] == 0
        assert summary["validation"]["solver_failures"] == 0
