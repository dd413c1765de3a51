"""Committed records are of the task as it is today: its rows and its plain baselines.

Their presets, networks and training are those of the day they were made, which the record's
``source_hash`` and ``config_hash`` name; a run of today's preset is another run.
"""

import json
import os
from pathlib import Path

import pytest

from diffusion_dfl.suite.config.compose import compose_config, identify
from diffusion_dfl.suite.reporting.archive import Archive
from diffusion_dfl.suite.runs.compile import make_task

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("task=inventory", "model=gaussian", "grad=two_stage"),
        ("task=synthetic", "model=gaussian", "grad=reparam"),
        ("task=power", "model=deterministic", "grad=reparam"),
    ],
    ids=lambda words: words[0],
)
def test_the_plain_baselines_of_a_committed_record_are_those_of_its_rows(
    words: tuple[str, ...],
) -> None:
    if "task=power" in words and "DIFFUSION_DFL_DATA" not in os.environ:
        pytest.skip("no real data to run on")
    config = compose_config([*words, "seed=0"])
    archive = Archive(ROOT / "results" / "published")
    record = json.loads(archive.text(identify(config).path.as_posix(), "summary"))["test"]
    task = make_task(config)
    rows = task.dataset.test
    assert record["num_rows"] == len(rows)
    assert record["baselines"]
    made = task.baselines()
    for name, value in record["baselines"].items():
        assert task.judge(rows, made[name]).task == pytest.approx(value, rel=1e-6), name
    if "optimal_cost" in record:
        found = task.judge(rows, made["saa"]).metrics["optimal_cost"]
        assert found == pytest.approx(record["optimal_cost"], rel=1e-6)
