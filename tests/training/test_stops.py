"""Runs that must not start, and runs that must not go on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusion_dfl.training.loop as loop
from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Loss, Score
from diffusion_dfl.suite.config.compose import fit_path, identify
from diffusion_dfl.suite.runs.run import run
from diffusion_dfl.training.checkpoint import read_tensors, write_tensors
from diffusion_dfl.training.loop import TrainingDiverged
from tests.configs import composed

TINY = (
    "data=simulated",
    "scale=smoke",
    "model=diffusion",
    "grad=score",
    "foundation.epochs=1",
    "fit.epochs=1",
    "train.epochs=3",
    "decision.num_scenarios=5",
    "data.num_days=200",
    "evaluation.num_large=10",
    "model.width=8",
    "model.base_folds=2",
    "model.base_width=8",
    "model.num_sampling_steps=3",
    "device=cpu",
)


def _config(root: Path) -> Any:
    return composed([*TINY, f"output.root={root}"])


def _directory(root: Path) -> Path:
    return root / "runs" / identify(_config(root)).path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run lies that nothing stopped."""
    root = tmp_path_factory.mktemp("finished")
    run(_config(root))
    return root


def _widen(checkpoint: Path, name: str) -> None:
    """Another shape of one tensor, as of a denoiser with more units."""
    saved = read_tensors(checkpoint, torch.device("cpu"))
    saved["predictor"][name] = torch.zeros(9, *saved["predictor"][name].shape[1:])
    write_tensors(checkpoint, saved)


@pytest.mark.parametrize("where", ["fit", "train"])
def test_a_checkpoint_of_another_architecture_is_refused_before_training(
    where: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    directory = _directory(tmp_path)
    (directory / "summary.json").unlink()
    folder = directory if where == "train" else tmp_path / "runs" / fit_path(_config(tmp_path))
    checkpoint = folder / "checkpoint.pt"
    _widen(checkpoint, "denoiser.from_outcome.bias")
    trained: list[str] = []
    monkeypatch.setattr(loop.Stage, "_step", lambda self, *a: trained.append(self.name))
    with pytest.raises(
        UserError,
        match=r"denoiser\.from_outcome\.bias is of shape \(9,\) there and of shape \(8,\) in this "
        r"configuration; move it away, or add force=true",
    ):
        run(_config(tmp_path))
    assert not trained


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.slow
def test_a_run_that_is_no_longer_finite_stops_with_its_last_good_checkpoint(
    gradient_only: bool, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third epoch's first loss is bad; the checkpoint is that of the second epoch."""
    epochs: list[int] = []
    with monkeypatch.context() as patched:
        original, save = Score.__call__, loop.Stage._save

        def note(self: loop.Stage) -> None:
            save(self)
            if self.name == "train":
                epochs.append(self.progress.epoch)

        def poisoned(self: Score, *arguments: Any) -> Loss:
            loss = original(self, *arguments)
            if len(epochs) < 3:  # before the first epoch, after it, after the second
                return loss
            zero = 0.0 * loss.value
            return Loss(loss.value + (zero.sqrt() if gradient_only else zero / 0.0), loss.metrics)

        patched.setattr(loop.Stage, "_save", note)
        patched.setattr(Score, "__call__", poisoned)
        with pytest.raises(TrainingDiverged, match=r"'train', epoch 3, step 1.*decision_cost"):
            run(_config(tmp_path))
    directory = _directory(tmp_path)
    status = json.loads((directory / "status.json").read_text())
    assert status["status"] == "failed"
    assert "training rows (" in status["reason"] and "outcomes in" in status["reason"]
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)
    assert saved["progress"]["epoch"] == 2
    for part in ("predictor", "best"):
        assert all(bool(value.isfinite().all()) for value in saved[part].values())
    # Tried again, it goes on from there to the numbers of a run that was never stopped.
    again = run(_config(tmp_path))
    whole = json.loads((_directory(finished) / "summary.json").read_text())
    assert again["test"] == whole["test"]


@pytest.mark.slow
def test_every_cell_records_its_memory(tmp_path: Path) -> None:
    resources = run(_config(tmp_path))["resources"]
    assert resources["saved_for_backward_bytes"] > 0
    assert resources["peak_memory_bytes"] > resources["saved_for_backward_bytes"]
