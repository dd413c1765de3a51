"""What `task=power` ties together."""

from typing import Any

import numpy as np
import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.tasks import Task, power_task


def _task(source: str = "simulated", **values: Any) -> Task:
    values = {
        "url": "http://127.0.0.1:9/",
        "directory": "nowhere",
        "num_days": 200,
        "validation_fraction": 0.2,
        "block_weeks": 2,
        "gap_days": 1,
        **values,
    }
    return power_task(source, np.random.default_rng(0), **values)


def test_program_and_data_fit_together() -> None:
    task = _task(shortage=7.0, excess=2.0, ramp=0.1)
    assert (task.program.shortage, task.program.excess, task.program.ramp) == (7.0, 2.0, 0.1)
    assert task.program.num_decisions == task.dataset.outcomes.shape[1] == 24
    assert (task.name, task.higher_is_better) == ("power", False)


def test_the_papers_costs_are_the_default() -> None:
    program = _task().program
    assert (program.shortage, program.excess, program.ramp) == (50.0, 0.5, 0.4)


def test_values_no_data_can_meet_are_refused() -> None:
    with pytest.raises(UserError, match="validation_fraction"):
        _task(validation_fraction=1.5)
    with pytest.raises(UserError, match="num_days"):
        _task(num_days=3)
    with pytest.raises(UserError, match="source|data=weather"):
        _task(source="weather")


def test_missing_files_are_refused_and_nothing_is_simulated(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"data\.root="):
        _task(source="real", root=str(tmp_path / "missing"))
