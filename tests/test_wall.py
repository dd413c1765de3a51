"""The library stands by itself: the suite imports it, never the other way round."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffusion_dfl

PACKAGE = Path(diffusion_dfl.__file__).parent

#: What the library needs to be imported, beside the standard library.
HARD = {"torch", "numpy", "scipy", "pandas", "diffusion_dfl"}


def _library() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if "suite" not in p.relative_to(PACKAGE).parts]


def _imports(path: Path, of_module_only: bool) -> Iterator[str]:
    """Modules that a file imports; of its top level only, without what is for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if of_module_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield str(node.module)


def test_no_file_of_the_library_knows_the_suite() -> None:
    guilty = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in _library()
        for name in _imports(path, of_module_only=False)
        if name.startswith("diffusion_dfl.suite")
    ]
    assert not guilty


def test_the_library_imports_what_it_depends_on_and_no_more() -> None:
    guilty = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in _library()
        for name in _imports(path, of_module_only=True)
        if name.partition(".")[0] not in sys.stdlib_module_names | HARD
    ]
    assert not guilty


@pytest.mark.slow
def test_training_and_deciding_import_none_of_the_suite_s_packages() -> None:
    script = """
import sys
for name in ("hydra", "omegaconf", "wandb", "jinja2", "matplotlib", "yaml", "tqdm", "filelock",
             "cvxpy", "clarabel", "pyarrow", "scoringrules"):
    sys.modules[name] = None
import diffusion_dfl as ddfl
assert not any(name.startswith("torch") for name in sys.modules), "import is not lazy"
for name in ddfl.__all__:
    getattr(ddfl, name)
import numpy as np, pandas as pd
rng = np.random.default_rng(0)
frame = pd.DataFrame({"x": rng.normal(size=60), "y": rng.uniform(1, 2, 60)})
program = ddfl.Newsvendor(z_max=5.0)
task = ddfl.task_from_frame("stock", program, frame, context=["x"], outcome=["y"])
short = ddfl.TrainingSettings(epochs=1, batch_size=16, learning_rate=1e-3)
fitted = ddfl.train(task, ddfl.GaussianPredictor, ddfl.Reparam(8), fit=short, train=short)
assert np.isfinite(fitted.evaluate(num_large=20).metrics["crps"])
assert np.isfinite(fitted.decide(frame[["x"]][:3]).decision).all()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)
