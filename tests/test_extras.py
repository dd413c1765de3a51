"""The commands that messages give for a missing package can be typed where they are read."""

import re
import tomllib
from pathlib import Path

import pytest

from diffusion_dfl.extras import installing
from tests.processes import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_a_clone_installs_itself_from_wherever_it_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    assert installing("search") == "pip install --editable '.[search]'"
    monkeypatch.chdir(tmp_path)
    assert installing("search") == f"pip install --editable '{ROOT}[search]'"


def test_an_installed_package_is_added_to_by_the_packages_that_an_extra_needs(
    tmp_path: Path,
) -> None:
    assert re.fullmatch(r"pip install 'optuna>=4.2'", installing("search", tmp_path))
    layers = installing("layers", tmp_path)  # One that names another extra of ours.
    assert all(name in layers for name in ("cvxpylayers", "cvxpy>", "clarabel"))
    assert "diffusion-dfl" not in layers


def test_every_extra_that_a_message_names_is_there() -> None:
    for folder in ("diffusion_dfl", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"\binstalling\(['\"](\w+)['\"]", path.read_text()):
                assert name in EXTRAS, path
