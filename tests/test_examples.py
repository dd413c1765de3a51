"""The examples do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_quickstart_draws_figure_1_and_decides_better_with_a_distribution(
    tmp_path: Path,
) -> None:
    before = os.times()
    done = subprocess.run(
        [sys.executable, "examples/quickstart.py", str(tmp_path / "new")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    after = os.times()
    # Of one core, whatever else the machine does.
    assert after.children_user - before.children_user < 60
    rows = dict(re.findall(r"^(.+?)  +(\d\.\d{3}) +\d\.\d{3}$", done.stdout, re.MULTILINE))
    costs = dict(re.findall(r"^(.+?)  +\d\.\d{3} +(\d\.\d{3})$", done.stdout, re.MULTILINE))
    assert float(rows["point forecast"]) == 2.0  # at the bound
    best = float(costs["optimum"])
    assert float(costs["point forecast"]) > 2 * best
    assert float(costs["diffusion"]) < 1.02 * best
    assert float(costs["diffusion, trained through its decision"]) < 1.01 * best
    picture = imread(tmp_path / "new" / "quickstart.png")
    assert picture.shape[1] > 1500
    assert picture.std() > 0.05
