"""Spaces: what the files of conf/search say, and what is refused in them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.search import space as spaces
from diffusion_dfl.suite.search.rows import rows_of
from diffusion_dfl.suite.search.space import Space, read_budget, read_space

TASKS = ("power", "synthetic", "portfolio", "inventory", "restaurant")
MODELS = ("deterministic", "gaussian", "diffusion", "flow", "policy")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.slow
def test_every_key_of_every_space_is_one_of_the_configuration(model: str, tmp_path: Path) -> None:
    for task in TASKS:
        for row in rows_of(task, model, tmp_path):
            assert row.config.task.name == task


def test_every_row_of_a_task_has_the_same_budget(tmp_path: Path) -> None:
    for task in TASKS:
        rows = [row for model in MODELS for row in rows_of(task, model, tmp_path)]
        assert len(rows) == sum(len(CELLS[model]) for model in MODELS)
        assert {row.budget for row in rows} == {read_budget(task)}


@pytest.mark.parametrize("model", MODELS)
def test_rows_with_a_term_of_the_fit_have_a_twin_and_no_others(model: str, tmp_path: Path) -> None:
    bench: Any = SimpleNamespace(twin=lambda config, instance, epochs: (instance, epochs))
    for row in rows_of("inventory", model, tmp_path):
        best = SimpleNamespace(params={}, user_attrs={"chosen": 3})
        space = SimpleNamespace(fixed=row.space.fixed, values=dict)
        study: Any = SimpleNamespace(finished=lambda best=best: [best], space=space)
        settings = {**row.config.grad, **row.space.fixed}
        fitted = row.stage == "decision" and settings.get(
            "grad.fit_weight", row.config.grad.get("fit_weight")
        )
        assert bool(row.twin(bench, study)) == bool(fitted), row.name


def test_what_is_otherwise_for_a_task_takes_the_place_of_the_rest() -> None:
    power = read_space("diffusion", "fit", "power", "two_stage")
    inventory = read_space("diffusion", "fit", "inventory", "two_stage")
    assert "model.context_rank" in inventory.knobs
    assert "model.context_rank" not in power.knobs
    assert "model.variance" in power.knobs
    assert "model.variance" not in inventory.knobs  # null leaves it out
    assert power.digest != inventory.digest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(spaces, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fit: {knobs: {model.widht: [1, 2]}}", "model.widht: there is no such key"),
        ("fit: {fixed: {fit.epoch: 3}, knobs: {model.width: [1]}}", "fit.epoch: there is no such"),
        ("fit: {knobs: {model.width: []}}", "is no choice; write a list of values, or a range"),
        ("fit: {knobs: {model.dropout: {low: 0.5, high: 0.1}}}", "is no choice"),
        ("fit: {knobs: {model.dropout: {low: 0.1, hihg: 0.5}}}", "is no choice"),
        ("decision: {knobs: {model.width: [1]}}", "there is no stage fit; it has decision"),
        ("fit: [", "is no YAML"),
    ],
)
def test_a_space_that_says_nothing_sound_is_refused_by_name(
    folder: Path, tmp_path: Path, text: str, told: str
) -> None:
    (folder / "gaussian.yaml").write_text(text, encoding="utf-8")
    (row,) = [one for one in rows_of("inventory", "gaussian", tmp_path) if one.stage == "fit"]
    with pytest.raises(UserError, match=told):
        _ = row.config


def test_a_model_without_a_space_is_told_what_there_is(folder: Path) -> None:
    (folder / "flow.yaml").write_text("fit: {}", encoding="utf-8")
    with pytest.raises(UserError, match=r"there is no conf/search/gaussian.yaml.*there are: flow"):
        read_space("gaussian", "fit", "power", "two_stage")


@given(
    st.lists(
        st.one_of(st.booleans(), st.integers(-5, 5), st.text(max_size=3)),
        min_size=1,
        max_size=4,
        unique_by=str,
    )
)
def test_what_a_trial_chose_is_what_was_written(choices: list[object]) -> None:
    space = Space("test", {}, {"a": choices, "b": {"low": 0.1, "high": 10.0, "log": True}})
    trial = optuna.trial.FixedTrial({"a": spaces.json.dumps(choices[-1]), "b": 2.0})
    found = space.suggest(trial)
    assert found == {"a": choices[-1], "b": 2.0}
    assert type(found["a"]) is type(choices[-1])
    assert space.values(trial.params) == found


def test_the_first_trial_is_the_present_preset_as_far_as_the_space_has_it() -> None:
    config = compose_config(["task=inventory", "model=gaussian", "grad=two_stage"])
    space = Space(
        "test",
        {},
        {
            "model.width": [16, config.model.width],
            "model.layers": [77],
            "fit.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "model.dropout": {"low": 5.0, "high": 9.0},
        },
    )
    assert space.start(config) == {
        "model.width": str(config.model.width),
        "fit.learning_rate": config.fit.learning_rate,
    }
