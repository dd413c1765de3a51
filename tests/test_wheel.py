"""A wheel in an empty environment, away from the repository: the library alone, then with its suite."""

import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from diffusion_dfl import __version__
from tests.processes import ROOT

SCRIPT = """
import sys, time
begin = time.perf_counter()
import diffusion_dfl
print(f"import diffusion_dfl: {time.perf_counter() - begin:.3f} s")
assert "site-packages" in diffusion_dfl.__file__, diffusion_dfl.__file__
import numpy as np, pandas as pd
rng = np.random.default_rng(0)
frame = pd.DataFrame({"x": rng.normal(size=60), "y": rng.uniform(1, 2, 60)})
task = diffusion_dfl.task_from_frame(
    "stock", diffusion_dfl.Newsvendor(), frame, context=["x"], outcome=["y"]
)
short = diffusion_dfl.TrainingSettings(epochs=1, batch_size=16, learning_rate=1e-3)
fitted = diffusion_dfl.train(
    task, diffusion_dfl.GaussianPredictor, diffusion_dfl.Reparam(8), fit=short, train=short
)
assert np.isfinite(fitted.decide(frame[["x"]][:3]).decision).all()
"""


def _said(*words: str, folder: Path, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    _said(*words, str(ROOT), folder=folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.slow
def test_a_wheel_has_every_file_of_the_configuration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"diffusion_dfl/py.typed", "hydra_plugins/diffusion_dfl_dask.py"} <= names
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"diffusion_dfl/suite/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names


@pytest.mark.slow
def test_a_wheel_says_who_made_it_and_what_it_is_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        told = message_from_bytes(archive.read(name))
    assert told["Author"] == "The Diffusion-DFL developers"
    assert told["Version"] == __version__ and told["License-Expression"] == "Apache-2.0"
    bounds = [int(minor) for minor in re.findall(r"3\.(\d+)", told["Requires-Python"])]
    versions = {
        f"Programming Language :: Python :: 3.{minor}" for minor in range(min(bounds), max(bounds))
    }
    assert versions == {kind for kind in told.get_all("Classifier") if re.search(r"3\.\d+$", kind)}
    assert "decision-focused learning" in told["Keywords"]


@pytest.mark.slow
def test_a_wheel_works_by_itself(wheel: Path, tmp_path: Path) -> None:
    bin = tmp_path / "venv" / "bin"
    _said(sys.executable, "-m", "venv", str(bin.parent), folder=tmp_path)
    install = [
        str(bin / "pip"),
        "install",
        "--quiet",
        "--no-compile",
        "--constraint",
        str(ROOT / "constraints.txt"),
    ]
    _said(*install, str(wheel), folder=tmp_path)
    print(_said(str(bin / "python"), "-c", SCRIPT, folder=tmp_path))
    command = str(bin / "diffusion-dfl")
    refused = _said(command, "train", folder=tmp_path, code=2)
    assert (
        "needs hydra, omegaconf" in refused
        and "`pip install" in refused
        and "hydra-core" in refused
    )

    _said(*install, f"{wheel}[suite]", folder=tmp_path)
    words = ["task=power", "data=simulated", "model=gaussian", "scale=smoke"]
    said = _said(command, "train", *words, "grad=reparam", folder=tmp_path)
    assert "make it with `diffusion-dfl train task=power model=gaussian grad=two_stage" in said
    run = next((tmp_path / "results").rglob("summary.json")).parent
    assert '"git": "v' in (run / "env.json").read_text()
    table = ["table", "--scale", "smoke", "--data", "simulated"]
    assert "Gaussian reparameterization" in _said(command, *table, folder=tmp_path)
    assert "finished" in _said(command, "status", *words, "seed=0", folder=tmp_path)
    assert "written to" in _said(command, "report", folder=tmp_path)
    columns = _said(command, "predict", str(run), "--columns", folder=tmp_path)
    assert "prev_h00" in columns
    refused = _said(
        command, "train", "hydra/launcher=dask", "-m", "seed=0", folder=tmp_path, code=2
    )
    assert "`pip install 'dask-jobqueue" in refused
    assert "--prices" in _said(command, "fetch", "--help", folder=tmp_path)
