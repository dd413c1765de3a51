"""The Makefile documents itself, and its two first targets set themselves up."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    targets = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split())
    assert {line.split()[0] for line in shown.splitlines()} == targets


@pytest.mark.parametrize("target", ["demo", "test", "lint", "table1"])
def test_target_depends_on_setup(target: str) -> None:
    assert re.search(rf"^{target}: setup ", MAKEFILE, re.MULTILINE)
