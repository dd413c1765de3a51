"""Which runs a table is about."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_dfl.config.compose import compose_config, identify
from diffusion_dfl.errors import UserError
from diffusion_dfl.reporting.selection import (
    choices,
    choose,
    default_source,
    is_twin,
    literal,
    selection,
)
from tests.reporting.records import TWIN, frame_of, summary, wanted


def test_tables_never_mix_sources_scales_variants_or_old_presets(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"task": "inventory"},
        {"source": "simulated", "differs": {"data.source": "simulated"}},
        {"scale": "smoke"},
        {"differs": {"decision.bandwidth_scale": 9.0}},
        {"config_hash": "old"},
    ]
    runs = frame_of(
        tmp_path, [summary("diffusion", "score", 0, 1.0, **change) for change in changes]
    )
    chosen = choose(runs, wanted())
    assert (len(chosen.runs), len(chosen.twins), chosen.stale) == (0, 0, 1)


def test_twins_stand_apart_and_stale_ones_are_counted(tmp_path: Path) -> None:
    needed = {"grad.decision_weight": 0.0, "grad.fit_weight": 1.0}
    more = {**TWIN, "decision.bandwidth_scale": 9.0}
    records = [
        summary("diffusion", "score", 0, 1.0),
        summary("diffusion", "score", 0, 2.0, differs=TWIN, config_hash="t"),
        summary("diffusion", "reparam", 0, 3.0, differs=needed, config_hash="t"),
        summary("diffusion", "score", 1, 4.0, differs=TWIN, config_hash="old"),
        summary("diffusion", "score", 2, 5.0, differs=more, config_hash="t"),
    ]
    chosen = choose(frame_of(tmp_path, records), wanted())
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


def test_presets_and_twins_are_those_train_would_run_today() -> None:
    found = selection("portfolio", "smoke")
    assert (found.task, found.scale, found.source, found.compare) == (
        "portfolio",
        "smoke",
        "sp500",
        True,
    )
    words = ["task=portfolio", "scale=smoke", "model=gaussian", "grad=score"]
    cell = ("gaussian", "score")
    assert found.presets[cell].config_hash == identify(compose_config(words)).config_hash
    assert found.presets[cell].differs == {}
    twin = identify(compose_config([*words, "grad.decision_weight=0"]))
    assert is_twin(twin.differs)
    assert found.current_hash(cell, twin.differs) == twin.config_hash
    assert found.current_hash(cell, {"no.such_key": 1}) is None


def test_overrides_and_another_source_are_part_of_every_preset_and_not_the_papers() -> None:
    found = selection("portfolio", "smoke", "skfolio", ["task.num_assets=20"])
    differs = found.presets["policy", "policy"].differs
    assert differs == {"data.source": "skfolio", "task.num_assets": 20}
    assert not found.compare
    twin = {**differs, "grad.decision_weight": 0.0}
    assert found.current_hash(("gaussian", "score"), twin) is not None


def test_the_papers_numbers_stand_beside_the_released_protocol_and_no_other_variant() -> None:
    assert selection("power_released", "smoke").compare
    assert not selection("power_weather", "smoke").compare


def test_an_override_that_no_run_takes_is_refused() -> None:
    with pytest.raises(UserError, match="no such key"):
        selection("power", "smoke", None, ["+task.colour=red"])


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "two words", "it's \\ here", [1, "a,b"]])
def test_a_changed_value_survives_the_way_through_the_override_grammar(value: Any) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={literal(value)}"])
    parsed = override.value()
    if isinstance(parsed, list):
        parsed = [getattr(item, "text", item) for item in parsed]
    assert json.dumps(getattr(parsed, "text", parsed)) == json.dumps(value)
