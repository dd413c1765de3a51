"""A knob and a predictor are added to the project where a reader would add them, and nowhere else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_dfl.suite.places import REPOSITORY

PREDICTOR = '''"""A point prediction that is held inside the range that was seen."""

import torch
from torch import Tensor

from diffusion_dfl.predictors.base import FULL, Backpropagation
from diffusion_dfl.predictors.deterministic import DeterministicPredictor


class BoundedPredictor(DeterministicPredictor):
    """A multilayer perceptron whose predictions stay near the mean.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        reach: farthest a prediction goes, in standard deviations.
    """

    def __init__(self, context_size: int, outcome_size: int, reach: float = 3.0) -> None:
        super().__init__(context_size, outcome_size, width=8)
        if not reach > 0:
            raise ValueError(f"reach={reach} must be a number > 0")
        self.reach = reach

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        found = super().sample(context, num_scenarios, generator, differentiable, backpropagation)
        low = self.outcomes.mean - self.reach * self.outcomes.scale
        return found.clamp(low, self.outcomes.mean + self.reach * self.outcomes.scale)
'''
OPTION = """# Point prediction inside the range that was seen.
defaults:
  - /schema/model/bounded@_here_
  - _self_
name: bounded
_target_: diffusion_dfl.predictors.bounded.BoundedPredictor
"""
SMALL = ("task=power", "data=simulated", "scale=smoke", "fit.epochs=1", "train.epochs=1", "seed=0")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a predictor of two files more, and a knob in a constructor and its docstring."""
    root = tmp_path_factory.mktemp("clone")
    for name in ("diffusion_dfl", "conf"):
        shutil.copytree(REPOSITORY / name, root / name)
    for name in ("train.py", "scripts/make_config_docs.py", "docs/templates/config.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    (root / "diffusion_dfl/predictors/bounded.py").write_text(PREDICTOR)
    (root / "conf/model/bounded.yaml").write_text(OPTION)
    rule = root / "diffusion_dfl/training/rule.py"
    text = rule.read_text()
    text = text.replace(
        "        max_failure_share: share",
        "        patience_share: share of nothing, as an example.\n        max_failure_share: share",
    ).replace("    max_failure_share: float = 0.05\n", "    max_failure_share: float = 0.05\n"
              "    patience_share: float = 0.25\n")  # fmt: skip
    rule.write_text(text)
    return root


def _said(clone: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=clone,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_predictor_of_two_files_has_help_schema_checks_and_runs(clone: Path) -> None:
    shown = _said(clone, "train.py", "--help")
    assert "Point prediction inside the range that was seen" in shown
    assert (
        "grad=two_stage,cost_weighted,reparam" in shown.split("model=bounded")[-1].splitlines()[0]
    )
    words = [*SMALL, "model=bounded", "grad=reparam"]
    assert "reach: 3.0" in _said(clone, "train.py", *words, "--cfg", "job")
    refused = _said(clone, "train.py", *words, "model.reach=far", code=2)
    assert "model.reach=far must be a number, as in model.reach=3.0" in refused
    assert "model.reach=-1.0 must be a number > 0" in _said(
        clone, "train.py", *words, "model.reach=-1", code=2
    )
    assert "grad=score makes no sense" in _said(
        clone, "train.py", *SMALL, "model=bounded", "grad=score", code=2
    )
    assert "test cost" in _said(clone, "train.py", *words)


@pytest.mark.slow
def test_a_knob_of_one_constructor_is_a_key_with_a_meaning(clone: Path) -> None:
    assert "patience_share: 0.25" in _said(clone, "train.py", "--cfg", "job")
    _said(clone, "scripts/make_config_docs.py")
    page = (clone / "docs/config.md").read_text()
    row = "| `decision.patience_share` | float | `0.25` | share of nothing, as an example |"
    assert row in page
    assert "farthest a prediction goes, in standard deviations" in page
