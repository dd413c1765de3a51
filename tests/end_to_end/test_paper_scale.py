"""``scale=paper`` on a CPU: Table 2's networks and all T = 1000 steps, on a handful of days."""

import math
from pathlib import Path

import pytest

from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.runs.run import run

FEW = (
    "task=power",
    "scale=paper",
    "data=simulated",
    "data.num_days=60",
    "decision.num_scenarios=2",
    "evaluation.num_large=2",
    "train.batch_size=8",
    "train.epochs=1",
    "fit.epochs=1",
    "fit.refit=false",
    "foundation.epochs=1",
    "model.base_folds=1",
    "device=cpu",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        ("grad=reparam",),
        ("grad=reparam", "grad.backpropagation=checkpoint"),
        ("grad=score",),
        ("grad=score_path", "model.final_noise=true"),
    ],
    ids=["reparam", "checkpoint", "score", "score_path"],
)
def test_the_papers_sizes_run_to_a_record(cell: tuple[str, ...], tmp_path: Path) -> None:
    config = compose_config([*FEW, "model=diffusion", *cell, f"output.root={tmp_path}"])
    model = config.model
    assert (model.width, model.layers) == (1024, 2)
    assert (model.num_diffusion_steps, model.num_sampling_steps, model.spacing) == (
        1000,
        1000,
        "uniform",
    )
    summary = run(config)
    assert summary["identity"]["scale"] == "paper"
    assert math.isfinite(summary["test"]["task"])
    assert summary["validation"]["epochs"] == 1
    # A step of all 1000: 16 rows of 2 x 1024 units before and after activation.
    step = 4 * (8 * 2) * (4 * 1024)
    saved = summary["resources"]["saved_for_backward_bytes"]
    assert saved > 1000 * step if cell == ("grad=reparam",) else 0 < saved < 200 * step
