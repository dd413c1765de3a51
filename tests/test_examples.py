"""The examples do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

ROOT = Path(__file__).resolve().parents[1]


def test_the_quickstart_uses_the_public_interface() -> None:
    import diffusion_dfl as ddfl

    text = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert re.findall(r"diffusion_dfl.*", text) == ["diffusion_dfl as ddfl"]
    assert set(re.findall(r"\bddfl\.(\w+)", text)) <= set(ddfl.__all__)


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
    assert done.stdout.startswith("training: point forecast\ntraining: diffusion\n")
    next_command = done.stdout.splitlines()[-1].strip()
    assert next_command in (ROOT / "docs" / "first_hour.md").read_text(encoding="utf-8")
    picture = imread(tmp_path / "new" / "quickstart.png")
    assert picture.shape[1] > 1500
    assert picture.std() > 0.05
