"""A cheap cell recomputed from its command gives its committed record."""

import json
import os
from pathlib import Path

import pytest

from diffusion_dfl.config.compose import compose_config, identify
from diffusion_dfl.reporting.archive import Archive
from diffusion_dfl.training.run import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "digits"),
    [
        (("task=inventory", "model=deterministic", "grad=two_stage"), 1e-6),
        (("task=synthetic", "model=gaussian", "grad=reparam"), 1e-4),
        (("task=power", "model=deterministic", "grad=reparam"), 1e-4),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_cell_run_again_gives_its_committed_record(
    words: tuple[str, ...], digits: float, tmp_path: Path
) -> None:
    """Cells without early stopping between near equals: other processors round float32 otherwise."""
    if "task=power" in words and "DIFFUSION_DFL_DATA" not in os.environ:
        pytest.skip("no real data to run on")
    config = compose_config([*words, "seed=0", f"output.root={tmp_path}"])
    archive = Archive(ROOT / "results" / "published")
    record = json.loads(archive.text(identify(config).path.as_posix(), "summary"))
    found = run(config)
    assert found["identity"]["config_hash"] == record["identity"]["config_hash"]
    for name in ("task", "task_exact", "task_at_500", "rmse_scenario"):
        assert found["test"][name] == pytest.approx(record["test"][name], rel=digits)
    for name, value in record["test"]["baselines"].items():
        assert found["test"]["baselines"][name] == pytest.approx(value, rel=1e-6)
