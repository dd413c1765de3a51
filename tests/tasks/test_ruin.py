"""Decisions that are ruined by the outcome that came count, as the worst there are."""

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl import GaussianPredictor, Reparam, TorchProgram, TrainingSettings, compare, train
from diffusion_dfl.tasks.frame import task_from_frame


@pytest.mark.slow
def test_a_ruined_row_is_in_the_mean_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    growth = TorchProgram(
        2,
        2,
        smooth=lambda y, z: -(1 + y @ z).log() + 0.01 * z @ z,
        lower=0.0,
        matrix=[[1.0, 1.0]],
        limit=1.0,
    )
    rng = np.random.default_rng(0)
    returns = rng.normal(0.1, 0.2, (120, 2))
    returns[-3:] = -1.5
    frame = pd.DataFrame({"x": rng.normal(size=120), "a": returns[:, 0], "b": returns[:, 1]})
    task = task_from_frame("growth", growth, frame, ["x"], ["a", "b"])
    short = TrainingSettings(epochs=1, batch_size=64, learning_rate=1e-3)
    fitted = train(task, GaussianPredictor, Reparam(10), fit=short, train=short)
    found = fitted.evaluate(num_large=20)
    assert np.array_equal(np.flatnonzero(np.isinf(found.per_row)), [21, 22, 23])
    assert found.undecided == 0 and found.metrics["solver_failures"] == 0
    assert found.metrics["task"] is None
    assert "3 of 24 rows (21, 22, 23) have a decision whose cost is infinite" in caplog.text
    table = compare({"ours": fitted})
    assert np.isinf(table["cost"]).all() and (table["rows"] == 21).all()
