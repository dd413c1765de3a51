"""Which runs a table is about."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.markdown import render
from diffusion_dfl.suite.reporting.selection import choices, choose, default_source, selection
from diffusion_dfl.suite.reporting.table1 import build
from tests.configs import composed
from tests.suite.reporting.records import TWIN, frame_of, place, summary, wanted, write, write_all


def test_tables_never_mix_sources_scales_variants_or_old_presets(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"task": "inventory"},
        {"source": "simulated", "differs": {"data.source": "simulated"}},
        {"scale": "smoke"},
        {"differs": {"decision.bandwidth_scale": 9.0}},
    ]
    write_all(tmp_path, [summary("diffusion", "score", 0, 1.0, **change) for change in changes])
    old = summary("diffusion", "score", 0, 1.0, config_hash="old")
    write(tmp_path / "runs", place(old["identity"]), old)
    runs = frame(collect(tmp_path))
    chosen = choose(runs, wanted())
    assert (len(chosen.runs), len(chosen.twins), chosen.stale) == (0, 0, 1)


def test_twins_stand_apart_and_stale_ones_are_counted(tmp_path: Path) -> None:
    needed = {"grad.decision_weight": 0.0, "grad.fit_weight": 1.0}
    more = {**TWIN, "decision.num_scenarios": 9}
    records = [
        summary("diffusion", "score", 0, 1.0),
        summary("diffusion", "score", 0, 2.0, differs=TWIN, config_hash="t"),
        # A twin may decide by a c of its own: every row has the one that costs it least.
        summary(
            "diffusion",
            "reparam",
            0,
            3.0,
            differs={**needed, "decision.bandwidth_scale": 9.0},
            config_hash="t",
        ),
        summary("diffusion", "score", 2, 5.0, differs=more, config_hash="t"),
    ]
    write_all(tmp_path, records)
    old = summary("diffusion", "score", 1, 4.0, differs=TWIN, config_hash="old")
    write(tmp_path / "runs", place(old["identity"], 9), old)
    chosen = choose(frame(collect(tmp_path)), wanted())
    assert chosen.runs["test.task"].tolist() == [1.0]
    assert sorted(chosen.twins["test.task"]) == [2.0, 3.0]
    assert chosen.stale == 1


def test_two_twins_of_a_cell_do_not_count_its_seeds_twice(tmp_path: Path) -> None:
    """Twins with other weights of the fit are other runs; the set with most seeds is taken."""
    records = [summary("gaussian", "reparam", seed, 1.0) for seed in range(3)]
    for weight, seeds in ((1.0, range(3)), (0.1, range(2))):
        changes = {**TWIN, "grad.fit_weight": weight}
        records += [
            summary("gaussian", "reparam", seed, weight, differs=changes, config_hash="t")
            for seed in seeds
        ]
    twins = choose(frame_of(tmp_path, records), wanted()).twins
    assert twins["test.task"].tolist() == [1.0] * 3
    assert sorted(twins["seed"]) == [0, 1, 2]


def test_no_records_choose_nothing(tmp_path: Path) -> None:
    chosen = choose(frame_of(tmp_path, []), wanted())
    assert (len(chosen.runs), len(chosen.twins), chosen.stale) == (0, 0, 0)


def test_every_task_has_its_default_source_and_the_papers_come_first() -> None:
    sources = {task: default_source(task) for task in choices("task")}
    expected = {
        "synthetic": "simulated",
        "power": "real",
        "portfolio": "sp500",
        "inventory": "simulated",
    }
    assert list(sources)[:4] == list(expected)
    assert {task: sources[task] for task in expected} == expected


def test_a_table_with_changes_has_the_runs_that_change_the_same(tmp_path: Path) -> None:
    """A value that is the preset's own is in its configuration and no difference."""
    changes = {"task.shortage": 9.0}
    records = [
        summary("gaussian", "score", 0, 1.0),
        summary("gaussian", "score", 1, 2.0, differs=changes, config_hash="c"),
        summary("gaussian", "score", 2, 3.0, differs={**changes, **TWIN}, config_hash="t"),
        summary("gaussian", "score", 3, 4.0, differs={"task.shortage": 8.0}, config_hash="d"),
    ]
    runs = frame_of(tmp_path, records)
    table = selection(
        runs, "power", "laptop", None, ["task.shortage=9", "decision.curvature=convolved"]
    )
    assert (table.source, table.compare) == ("real", False)
    chosen = choose(runs, table)
    assert chosen.runs["seed"].tolist() == [1]
    assert chosen.twins["seed"].tolist() == [2]


def test_the_papers_numbers_stand_beside_the_released_protocol_and_no_other_variant() -> None:
    none = pd.DataFrame()
    assert selection(none, "power_released", "smoke").compare
    assert not selection(none, "power_weather", "smoke").compare


def test_a_task_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="there is no task mine"):
        selection(pd.DataFrame(), "mine", "smoke")


def test_own_runs_of_todays_preset_are_the_row_where_the_published_ones_are_of_another(
    tmp_path: Path,
) -> None:
    """Never one mean over two configurations; the twins of the one that left go with it."""
    records = [summary("gaussian", "score", seed, 1.0) for seed in range(3)]
    records.append(summary("gaussian", "score", 0, 1.5, differs=TWIN, config_hash="t"))
    records.append(summary("gaussian", "two_stage", 0, 4.0))
    write_all(tmp_path, records)
    today = identify(composed(["task=power", "scale=laptop", "model=gaussian", "grad=score"]))
    own = summary("gaussian", "score", 0, 2.0, config_hash=today.config_hash)
    write(tmp_path / "runs", place(own["identity"]), own)
    runs = frame(collect(tmp_path))
    chosen = choose(runs, wanted())
    assert sorted(chosen.runs["test.task"]) == [2.0, 4.0]
    assert (len(chosen.twins), chosen.stale) == (0, 4)
    assert chosen.displaced == [("gaussian", "score")]
    text = render(build(runs, wanted()))
    assert "Your runs of today's presets stand for the committed ones" in text
    assert "of older presets: Gaussian score function. Between the two nothing" in text
    assert all(mark not in text for mark in ("**2.000", "<u>2.000", "**4.000", "<u>4.000"))
    assert "-2.000" not in text  # to the two-stage fit, which is of an older preset
