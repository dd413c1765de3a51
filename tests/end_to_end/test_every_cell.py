"""Every task x model x grad cell: those that make sense run to their record, the others are refused."""

import json
import math
import os
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.config.compose import fit_path, identify
from diffusion_dfl.suite.runs.run import run
from tests.configs import composed

#: What makes a run of each task small.
TASKS: dict[str, tuple[str, ...]] = {
    "power": ("data=simulated", "data.num_days=150"),
    "portfolio": ("data=simulated", "data.num_days=250", "task.num_assets=5"),
    "synthetic": ("task.num_train=64", "task.num_validation=16", "task.num_test=16"),
    "inventory": ("task.num_train=64", "task.num_validation=16", "task.num_test=16"),
    "power_released": ("data=simulated", "data.num_days=150", "task.temperatures=false"),
    "portfolio_released": (
        "data=simulated",
        "data.num_days=250",
        "task.num_assets=5",
        "task.longest_window=130",
    ),
    "synthetic_released": (),
    "power_weather": (),
    "restaurant": ("task.features=calendar",),
}
#: Neither temperatures nor a restaurant's guests are simulated.
REAL_ONLY = ("power_weather", "restaurant")
SMALL = (
    "scale=smoke",
    "device=cpu",
    "foundation.epochs=1",
    "fit.epochs=1",
    "train.epochs=1",
    "decision.num_scenarios=8",
    "evaluation.num_large=16",
)
GRADS = tuple(dict.fromkeys(grad for grads in CELLS.values() for grad in grads))
VALID = [(model, grad) for model, grads in CELLS.items() for grad in grads]
INVALID = [(model, grad) for model in CELLS for grad in GRADS if (model, grad) not in VALID]
WIDTH, BASE = ("model.width=16",), ("model.base_folds=2", "model.base_width=16")
#: What makes a model small.
MODELS: dict[str, tuple[str, ...]] = {
    "deterministic": WIDTH,
    "gaussian": (*WIDTH, *BASE),
    "diffusion": (*WIDTH, *BASE, "model.num_diffusion_steps=20", "model.num_sampling_steps=4"),
    "flow": (*WIDTH, *BASE),
    "policy": WIDTH,
    "bootstrap": BASE,
    "boosting": ("model.rounds=5",),
    "forest": ("model.trees=5",),
}


def overrides(root: Path, task: str, model: str, grad: str, *more: str) -> list[str]:
    small = [*SMALL, *TASKS[task], *MODELS[model]]
    cell = [f"task={task}", f"model={model}", f"grad={grad}"]
    return [*cell, *small, f"output.root={root}", *more]


def small_run(root: Path, task: str, model: str, grad: str, *more: str) -> dict[str, Any]:
    return run(composed(overrides(root, task, model, grad, *more)))


def epochs(root: Path, task: str, model: str, grad: str) -> list[dict[str, Any]]:
    """The lines of the run's log."""
    path = root / "runs" / identify(composed(overrides(root, task, model, grad))).path
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def _of_grid(place: int, task: str, pair: int) -> bool:
    """Product allocation and power with every model, of other tasks every third pair, each another one."""
    return task in ("synthetic", "power") or pair % 3 == place % 3


# The tables' task runs with every change; the rest of the grid in `make test-slow`.
GRID = [
    pytest.param(
        task,
        model,
        grad,
        marks=[
            *(
                [
                    pytest.mark.skipif(
                        "DIFFUSION_DFL_DATA" not in os.environ, reason="real data only"
                    )
                ]
                if task in REAL_ONLY
                else []
            ),
            *(
                []
                if task == "synthetic"
                or ((model, grad) == ("gaussian", "score") and task in ("portfolio", "inventory"))
                else [pytest.mark.slow]
            ),
        ],
        id=f"{task}-{model}-{grad}",
    )
    for place, task in enumerate(TASKS)
    for pair, (model, grad) in enumerate(VALID)
    if _of_grid(place, task, pair)
]


@pytest.mark.parametrize(("task", "model", "grad"), GRID)
def test_a_cell_that_makes_sense_runs_to_its_record(
    tmp_path: Path, task: str, model: str, grad: str
) -> None:
    summary = small_run(tmp_path, task, model, grad)
    json.dumps(summary, allow_nan=False)
    named = [summary["identity"][key] for key in ("task", "model", "grad")]
    assert named == [task, model, grad]
    test = summary["test"]
    assert test["higher_is_better"] == task.startswith("portfolio")
    assert test["solver_failures"] == test["nonfinite_rows"] == 0
    assert math.isfinite(test["task"])
    assert test["baselines"] and all(map(math.isfinite, test["baselines"].values()))
    # A policy has one decision, which knows no scenarios, and one more before its projection.
    scenarios = ("task_exact", "task_large", "rmse_scenario", "rmse_mean")
    assert all((test[name] is None) == (model == "policy") for name in scenarios)
    assert ("task_raw" in test) == (model == "policy")
    for name in ("crps", "coverage_90"):
        # One scenario has no spread.
        assert (test[name] is None) == (model in ("policy", "deterministic", "boosting"))
    if grad == "two_stage":
        return  # its epochs are those of the shared fit
    log = epochs(tmp_path, task, model, grad)
    assert [line["epoch"] for line in log] == [0, 1]
    # With one scenario the best allocation makes all or nothing of a product: it does not move.
    still = task.startswith("synthetic") and (model, grad) == ("deterministic", "reparam")
    assert (log[1]["gradient_norm"] == 0) == still
    assert math.isfinite(log[1]["loss"])


# Each pair with another task: the rule does not know the task.
@pytest.mark.parametrize(
    ("task", "model", "grad"),
    [(task, *pair) for task, pair in zip(cycle(TASKS), INVALID, strict=False)],
)
def test_a_cell_that_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path, task: str, model: str, grad: str
) -> None:
    with pytest.raises(UserError, match=f"model={model} grad={grad} makes no sense"):
        small_run(tmp_path, task, model, grad)
    assert list(tmp_path.iterdir()) == []


def test_every_model_of_the_grid_is_made_small() -> None:
    assert MODELS.keys() == CELLS.keys()


@pytest.mark.parametrize("model", ["gaussian", "flow"])
@pytest.mark.parametrize("grad", ["two_stage", "reparam", "score"])
def test_a_residual_model_runs_to_its_record_too(tmp_path: Path, model: str, grad: str) -> None:
    """The diffusion's is its default."""
    residual = "model.outcome_scaling=residual"
    summary = small_run(tmp_path, "synthetic", model, grad, residual)
    assert math.isfinite(summary["test"]["task"])
    config = composed(overrides(tmp_path, "synthetic", model, grad, residual))
    fit = tmp_path / "runs" / fit_path(config)
    assert sorted(path.name for path in fit.glob("foundation-?.pt")) == [
        "foundation-0.pt",
        "foundation-1.pt",
    ]


def test_paths_are_trained_with_the_networks_dropout(tmp_path: Path) -> None:
    """They are drawn and judged without it; the network's own loss keeps it."""
    cell = ("synthetic", "diffusion", "score_path")
    summary = small_run(tmp_path, *cell, "train.dropout=true", "model.dropout=0.2")
    assert math.isfinite(summary["test"]["task"])


def test_more_folds_than_blocks_of_training_days_are_refused_by_key_and_value(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=r"model\.base_folds=90: .* blocks of .*set it to a number"):
        small_run(tmp_path, "power", "diffusion", "score", "model.base_folds=90")


# Values that cannot work are refused before training


@pytest.mark.parametrize(
    ("cell", "values", "words"),
    [
        (
            ("power", "diffusion", "score"),
            ["model.num_sampling_steps=21"],
            ["num_sampling_steps=21", "num_diffusion_steps=20"],
        ),
        (
            ("power", "diffusion", "score"),
            ["model.num_elbo_timesteps=21"],
            ["num_elbo_timesteps=21", "num_diffusion_steps=20"],
        ),
        (
            ("power", "diffusion", "score"),
            ["model.elbo_steps=sampler", "model.num_elbo_timesteps=5"],
            ["num_elbo_timesteps=5", "num_sampling_steps=4"],
        ),
        (
            ("power", "diffusion", "reparam"),
            ["model.sampler=ddim", "model.eta=1.5"],
            ["eta=1.5", "[0, 1]"],
        ),
        (("power", "diffusion", "reparam"), ["model.eta=-0.1"], ["eta=-0.1", "[0, 1]"]),
        (
            ("power", "diffusion", "reparam"),
            ["model.sampler=dpm_solver"],
            ["sampler=dpm_solver", "final_noise=false"],
        ),
        (
            ("power", "diffusion", "score_path"),
            ["model.final_noise=false"],
            ["model.final_noise=false", "model.final_noise=true"],
        ),
        (
            ("power", "diffusion", "score_path"),
            ["model.sampler=ddim", "model.eta=0"],
            ["model.eta=0", "set model.final_noise=false"],
        ),
        (
            ("power", "diffusion", "reparam"),
            ["grad.backpropagation=last", "grad.last_steps=5"],
            ["grad.last_steps=5", "num_sampling_steps=4"],
        ),
        (
            ("power", "gaussian", "score"),
            ["decision.bandwidth_scale=0"],
            ["decision.bandwidth_scale=0", "above 0", "grad=reparam"],
        ),
        (
            ("inventory", "gaussian", "score"),
            ["decision.curvature=saa"],
            ["decision.curvature=saa", "decision.curvature=convolved"],
        ),
        (
            ("portfolio", "gaussian", "score"),
            ["decision.num_scenarios=1"],
            ["decision.num_scenarios=1", "at least 2"],
        ),
        (
            ("synthetic", "gaussian", "score"),
            ["data=real"],
            ["data=real", "task=synthetic", "data=simulated"],
        ),
        (
            ("inventory", "gaussian", "score"),
            ["data=sp500"],
            ["data=sp500", "task=inventory", "data=simulated"],
        ),
        (
            ("power", "gaussian", "score"),
            ["data=sp500"],
            ["data=sp500", "does not read data.num_days"],
        ),
        (("power", "gaussian", "score"), ["task.features=all"], ["task.features=all", "compact"]),
        (("inventory", "gaussian", "score"), ["task.weights=[0.5,0.2,0.2]"], ["sum to 1", "0.9"]),
        (("portfolio", "gaussian", "score"), ["task.num_assets=1000"], ["num_assets=1000"]),
        (("synthetic", "gaussian", "score"), ["task.mixture=real"], ["task.mixture=real", "paper"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list | tuple) else None,
)
def test_what_cannot_work_is_refused_with_key_value_and_mend_before_training(
    tmp_path: Path, cell: tuple[str, str, str], values: list[str], words: list[str]
) -> None:
    with pytest.raises(UserError) as refusal:
        small_run(tmp_path, *cell, *values)
    for word in words:
        assert word in str(refusal.value)
    assert list(tmp_path.rglob("*.pt")) == []
    assert list(tmp_path.rglob("summary.json")) == []


@pytest.mark.parametrize("task", ["portfolio", "synthetic"])
def test_a_smooth_program_is_trained_by_its_score_under_any_rule(tmp_path: Path, task: str) -> None:
    plain = small_run(tmp_path, task, "gaussian", "score")
    for rule in ("decision.curvature=saa", "decision.bandwidth_scale=0"):
        ruled = small_run(tmp_path, task, "gaussian", "score", rule)
        assert ruled["test"] == plain["test"]  # it is never convolved


# What runs share


def _fit_of(root: Path, *more: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """A diffusion's two-stage fit and where it lies."""
    words = overrides(root, "synthetic", "diffusion", "two_stage", "task.num_products=2", *more)
    config = composed(words)
    run(config)
    path = root / "runs" / fit_path(config) / "checkpoint.pt"
    return path, torch.load(path, weights_only=True)["best"]


@pytest.fixture(scope="module")
def plain_fit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    root = tmp_path_factory.mktemp("plain")
    path, weights = _fit_of(root)
    return path.relative_to(root), weights


@pytest.mark.parametrize(
    "values",
    [
        ["model.num_sampling_steps=8", "model.spacing=uniform"],
        ["model.sampler=ddim", "model.eta=0.5", "model.clip=2"],
        ["model.sampler=dpm_solver", "model.final_noise=false"],
        ["model.variance=posterior"],
        ["model.elbo_timesteps=stratified_importance", "model.elbo_mixing=0.2"],
        ["model.elbo_steps=sampler", "model.elbo_weighting=vlb", "model.num_elbo_timesteps=3"],
        ["model.antithetic=false", "model.common_noise=true", "model.chunk_rows=7"],
        ["task.capacity=1", "decision.num_scenarios=5"],
    ],
    ids=" ".join,
)
def test_what_is_left_out_of_the_name_of_a_fit_does_not_change_its_weights(
    tmp_path: Path, plain_fit: tuple[Path, dict[str, torch.Tensor]], values: list[str]
) -> None:
    path, plain = plain_fit
    other_path, other = _fit_of(tmp_path, *values)
    assert other_path.relative_to(tmp_path) == path
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[key], other[key]) for key in plain)


def test_a_run_with_another_sampler_takes_the_fit_that_is_there(tmp_path: Path) -> None:
    cell = ("synthetic", "diffusion", "score")
    small_run(tmp_path, *cell)
    (fit,) = tmp_path.glob("runs/smoke/synthetic/_fits/*/seed-0/checkpoint.pt")
    made = fit.stat().st_mtime_ns
    small_run(tmp_path, *cell, "model.num_sampling_steps=9", "model.elbo_steps=sampler")
    small_run(tmp_path, *cell, "model.elbo_timesteps=importance", "grad=reparam")
    assert list(tmp_path.glob("runs/smoke/synthetic/_fits/*/seed-0/checkpoint.pt")) == [fit]
    assert fit.stat().st_mtime_ns == made
