"""Where a run lives: a function of what decides its numbers, and of nothing else."""

from functools import cache
from pathlib import Path

import pytest

from diffusion_dfl.config.compose import Identity, compose_config, fit_path, identify

CELL = ("model=gaussian", "grad=score")


@cache
def _identity(*overrides: str) -> Identity:
    return identify(compose_config([*CELL, *overrides]))


def _path(*overrides: str) -> Path:
    return _identity(*overrides).path


def _hash(*overrides: str) -> str:
    return _identity(*overrides).config_hash


@cache
def _fit(*overrides: str) -> Path:
    return fit_path(compose_config([*CELL, *overrides]))


PLAIN = Path("laptop", "power", "gaussian-score", "seed-0")


def test_the_preset_has_a_path_without_a_hash() -> None:
    assert _path() == PLAIN


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/somewhere/else",
        "data.directory=/elsewhere",
        "data.url=http://mirror/",
        "device=cpu",
        "device=cuda",
        "output.root=/tmp/out",
        "force=true",
    ],
)
def test_places_and_devices_do_not_name_a_run(override: str) -> None:
    assert _path(override) == PLAIN
    assert _hash(override) == _hash()
    assert _fit(override) == _fit()


@pytest.mark.parametrize(
    "override",
    [
        "data=simulated",
        "decision.bandwidth_scale=1.25",
        "decision.num_scenarios=31",
        "task.shortage=49",
        "fit.epochs=7",
        "train.learning_rate=7e-6",
        "model.width=77",
        "grad.decision_weight=0",
        "threads=2",
        "evaluation.num_large=1001",
        "task.validation_fraction=0.3",
    ],
)
def test_what_decides_numbers_names_a_run(override: str) -> None:
    path = _path(override)
    assert path.parent.name.startswith("gaussian-score-")
    assert path.name == "seed-0"
    assert _hash(override) != _hash()
    (key,) = _identity(override).differs
    assert override.startswith((key, key.split(".")[0]))


def test_the_seed_is_the_last_part_and_not_in_the_hash() -> None:
    assert _path("seed=3") == PLAIN.with_name("seed-3")
    assert _hash("seed=3") == _hash()


def test_a_path_is_a_pure_function_of_the_values() -> None:
    first = _path("task.shortage=49", "data=simulated")
    assert _path("data=simulated", "task.shortage=49") == first
    assert _path("data=simulated", "task.shortage=48", "task.shortage=49") == first
    assert _path("data=simulated", "task.shortage=48") != first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("task.shortage=49", "task.shortage=49.0"),
        ("train.learning_rate=2e-3", "train.learning_rate=0.002"),
        ("decision.bandwidth_scale=1", "decision.bandwidth_scale=1.00"),
        ("fit.dropout=false", "fit.dropout=False"),
        ("grad.weight_clip=4", "grad.weight_clip=4.0"),
    ],
)
def test_two_spellings_of_a_number_are_one_run(one: str, other: str) -> None:
    assert _path(one) == _path(other)
    assert _hash(one) == _hash(other)


def test_saying_a_default_aloud_changes_nothing() -> None:
    config = compose_config(CELL)
    assert (
        _path(f"fit.epochs={config.fit.epochs}", f"task.shortage={config.task.shortage}") == PLAIN
    )


def test_an_endless_ramp_names_a_run() -> None:
    assert _path("task.ramp=inf") not in (PLAIN, _path("task.ramp=0.5"))


def test_minus_zero_is_zero() -> None:
    assert _hash("grad.weight_clip=-0.0") == _hash("grad.weight_clip=0.0")


@pytest.mark.parametrize(
    "override",
    [
        "decision.num_scenarios=31",
        "decision.bandwidth_scale=0.9",
        "grad=reparam",
        "grad.decision_weight=0.5",
        "train.epochs=3",
        "train.learning_rate=1e-6",
        "task.shortage=10",
        "task.excess=2",
        "task.ramp=0.05",
        "evaluation.test=false",
        "evaluation.num_large=1001",
        "output.root=elsewhere",
    ],
)
def test_the_fit_is_shared_by_all_runs_that_differ_in_what_it_does_not_read(override: str) -> None:
    assert _fit(override) == _fit()


@pytest.mark.parametrize(
    "override",
    [
        "data=simulated",
        "fit.epochs=3",
        "fit.learning_rate=1e-5",
        "model.width=77",
        "seed=1",
        "threads=2",
        "scale=paper",
        "task.block_weeks=3",
    ],
)
def test_the_fit_is_another_one_where_something_it_reads_differs(override: str) -> None:
    assert _fit(override) != _fit()


@pytest.mark.parametrize(
    "override",
    ["model.num_elbo_timesteps=4", "model.elbo_timesteps=uniform", "model.antithetic=false"],
)
def test_the_diffusion_fit_does_not_read_the_elbo_of_the_score(override: str) -> None:
    cell = ["model=diffusion", "grad=score"]
    assert fit_path(compose_config([*cell, override])) == fit_path(compose_config(cell))
