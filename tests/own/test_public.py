"""The public surface: what `import diffusion_dfl` offers, and what it needs."""

import ast
import inspect
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import diffusion_dfl as ddfl

ROOT = Path(__file__).resolve().parents[2]

_WITHOUT = '''
import sys

class Refuse:
    """Stands before every finder: what only the command line needs is not there."""
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hydra", "omegaconf", "wandb", "tensorboard", "cvxpylayers"):
            raise ModuleNotFoundError(f"No module named {name!r} in this test")
        return None

sys.meta_path.insert(0, Refuse())
import diffusion_dfl as ddfl
assert not any(name.startswith("torch") for name in sys.modules), "import is not lazy"
for package in ("programs", "solvers", "layers", "estimators", "predictors", "tasks", "data"):
    __import__(f"diffusion_dfl.{package}")
for name in ddfl.__all__:
    getattr(ddfl, name)

import numpy as np
import pandas as pd
import torch

torch.set_num_threads(1)
rng = np.random.default_rng(0)
frame = pd.DataFrame({"x": rng.random(40), "y": rng.random(40) + 1})
program = ddfl.TorchProgram(
    1, 1, hinges=[ddfl.Hinge(3.0, lambda y, z: y - z), ddfl.Hinge(1.0, lambda y, z: z - y)]
)
task = ddfl.task_from_frame("small", program, frame, context=["x"], outcome=["y"])
short = ddfl.TrainingSettings(epochs=1, batch_size=16, learning_rate=1e-3)
fitted = ddfl.train(
    task, ddfl.GaussianPredictor, ddfl.Reparam(5), fit=short, train=short, device="cpu"
)
assert np.isfinite(fitted.evaluate(num_large=5).metrics["task"])
assert not {"hydra", "omegaconf", "wandb"} & set(sys.modules)
print("trained")
'''


def test_the_library_trains_without_hydra_omegaconf_and_wandb() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WITHOUT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "trained"


def test_every_public_name_is_there_and_documented() -> None:
    for name in ddfl.__all__:
        value = getattr(ddfl, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
    assert set(ddfl.__all__) <= set(dir(ddfl))


def test_what_type_checkers_see_is_what_is_imported() -> None:
    tree = ast.parse((ROOT / "diffusion_dfl" / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == ddfl._HOME
    assert sorted([*seen, "__version__"]) == sorted(ddfl.__all__)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Gausian'"):
        ddfl.Gausian  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert files("diffusion_dfl").joinpath("py.typed").is_file()


def test_the_page_of_the_library_names_every_public_name() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    missing = [name for name in ddfl.__all__ if f"`{name}`" not in page]
    assert missing == []
