"""Where a run lives: a function of what decides its numbers, and of nothing else."""

from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusion_dfl.data.portfolio import DAYS
from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import (
    Identity,
    deciding_values,
    fit_path,
    identify,
)
from diffusion_dfl.suite.runs.directory import without_places
from tests.configs import composed

CELL = ("model=gaussian", "grad=score")


@cache
def _identity(*overrides: str) -> Identity:
    return identify(composed([*CELL, *overrides]))


def _path(*overrides: str) -> Path:
    return _identity(*overrides).path


def _hash(*overrides: str) -> str:
    return _identity(*overrides).config_hash


@cache
def _fit(*overrides: str) -> Path:
    return fit_path(composed([*CELL, *overrides]))


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
    config = composed(CELL)
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


# What the fit of a diffusion reads.


@cache
def _diffusion_fit(*overrides: str) -> Path:
    return fit_path(composed(["model=diffusion", "grad=score", *overrides]))


@pytest.mark.parametrize(
    "override",
    [
        "model.num_sampling_steps=20",
        "model.spacing=uniform",
        "model.sampler=ddim",
        "model.eta=0.5",
        "model.variance=posterior",
        "model.clip=3",
        "model.final_noise=false",
        "model.num_elbo_timesteps=5",
        "model.elbo_steps=sampler",
        "model.elbo_weighting=vlb",
        "model.elbo_timesteps=uniform",
        "model.elbo_mixing=0.3",
        "model.antithetic=false",
        "model.common_noise=true",
        "model.chunk_rows=64",
        "grad=score_path",
        "grad.trust_region=9",
        "decision.num_scenarios=33",
        "decision.curvature=paper",
        "task.shortage=10",
        "train.epochs=9",
    ],
)
def test_the_diffusion_fit_reads_neither_sampler_nor_surrogate_nor_program(override: str) -> None:
    assert _diffusion_fit(override) == _diffusion_fit()


@pytest.mark.parametrize(
    "override",
    [
        "model.width=77",
        "model.layers=3",
        "model.dropout=0.4",
        "model.prediction=epsilon",
        "model.schedule=cosine",
        "model.num_diffusion_steps=500",
        "model.outcome_scaling=global",
        "model.base_dropout=0.01",
        "task.features=full",
        "task.gap_days=2",
        "fit.context_noise=0.7",
        "foundation.epochs=3",
    ],
)
def test_the_diffusion_fit_reads_its_network_its_data_and_its_foundation(override: str) -> None:
    assert _diffusion_fit(override) != _diffusion_fit()


def test_a_fit_without_a_foundation_does_not_read_its_keys() -> None:
    scaled = "model.outcome_scaling=global"
    for key in ("epochs=3", "learning_rate=1e-5", "patience=1"):
        assert _fit(scaled, f"foundation.{key}") == _fit(scaled)
        assert _diffusion_fit(scaled, f"foundation.{key}") == _diffusion_fit(scaled)


@pytest.mark.parametrize("model", ["gaussian", "flow", "diffusion"])
@pytest.mark.parametrize(
    "override",
    [
        "foundation.epochs=3",
        "model.base_folds=2",
        "model.base_width=77",
        "model.base_layers=3",
        "model.base_dropout=0.01",
        "model.base_activation=gelu",
    ],
)
def test_every_residual_fit_reads_its_base(model: str, override: str) -> None:
    cell = (f"model={model}", "model.outcome_scaling=residual")
    assert _fit(*cell, override) != _fit(*cell)


@pytest.mark.parametrize("override", ["model.activation=relu", "fit.refit=false"])
def test_the_fit_reads_the_activation_and_whether_it_is_made_twice(override: str) -> None:
    assert _fit(override) != _fit()


@pytest.mark.parametrize(
    ("task", "override"),
    [
        ("synthetic", "task.capacity=3"),
        ("portfolio", "task.risk_aversion=3"),
        *(
            ("inventory", f"task.{key}=3.5")
            for key in ("c0", "q0", "cb", "rb", "ch", "rh", "z_max")
        ),
    ],
)
def test_the_fit_of_every_task_leaves_its_program_alone(task: str, override: str) -> None:
    assert _fit(f"task={task}", override) == _fit(f"task={task}")


@pytest.mark.parametrize("task", ["synthetic", "inventory"])
@pytest.mark.parametrize("override", ["num_test=77", "num_train=77", "context_size=3"])
def test_the_fit_reads_every_size_of_a_simulated_data_set(task: str, override: str) -> None:
    # One stream draws all rows, so that their number changes each of them.
    assert _fit(f"task={task}", f"task.{override}") != _fit(f"task={task}")


# The user's own file


def test_a_file_is_known_by_its_name_and_content_not_by_its_place(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("here", "there")]
    for place in places:
        place.mkdir()
        (place / "prices.csv").write_text("date,ticker,adj_close,volume\n")
    portfolio = ("task=portfolio", "data=csv")
    here, there = (
        identify(composed([*CELL, *portfolio, f"data.file={place}/prices.csv"])) for place in places
    )
    assert here == there
    assert str(tmp_path) not in str(here.differs)
    (places[1] / "prices.csv").write_text("date,ticker,adj_close,volume\n2010-01-04,A,1,1\n")
    changed = identify(composed([*CELL, *portfolio, f"data.file={places[1]}/prices.csv"]))
    assert changed.path != here.path  # other prices are another run


def test_the_configuration_kept_with_a_run_names_the_file_and_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("date,ticker,adj_close,volume\n")
    config = composed([*CELL, "task=portfolio", "data=csv", f"data.file={file}"])
    kept = without_places(config)
    assert str(tmp_path) not in OmegaConf.to_yaml(kept)
    assert deciding_values(kept)["data.file"] == deciding_values(config)["data.file"]


def test_the_place_of_a_home_folder_is_no_reason_to_forget_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prices.csv").write_text("date,ticker,adj_close\n")
    config = composed([*CELL, "task=portfolio", "data=csv", "data.file='~/prices.csv'"])
    assert " sha256 " in deciding_values(config)["data.file"]


def test_days_that_are_not_named_are_the_papers_but_for_a_file() -> None:
    named = [f"task.{key}={day}" for key, day in DAYS.items()]
    portfolio = [*CELL, "task=portfolio"]
    assert identify(composed([*portfolio, *named])) == identify(composed(portfolio))
    file = [*portfolio, "data=csv", "data.file=none.csv"]
    whole, cut = (identify(composed([*file, *words])) for words in ([], named))
    assert whole.path != cut.path


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that Linux has")
def test_a_file_that_cannot_be_read_is_named() -> None:
    told = r"^data.file=/proc/self/mem: it cannot be read \(Input/output error\)"
    with pytest.raises(UserError, match=told):
        identify(composed([*CELL, "data=csv", "data.file=/proc/self/mem"]))
