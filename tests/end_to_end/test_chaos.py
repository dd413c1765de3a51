"""A sweep under kill -9, full disks and damaged files ends as the unbroken one; here in small."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--seeds=1", "--kills=8"],
        ["--seeds=1", "--kills=5", "--hosts"],
        ["--seeds=1", "--kills=1", "--launchers", "basic"],
    ],
)
def test_a_storm_leaves_every_number_as_it_was(words: list[str]) -> None:
    command = [sys.executable, "scripts/chaos.py", *words, "--minutes=8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: as unbroken" in done.stdout
