"""Composing configurations: what is checked, and how values say what they are."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.programs import PowerProgram, ProductAllocation
from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.config.compose import (
    CONFIG_DIRECTORY,
    compose_config,
    deciding_values,
    identify,
    validate,
)
from diffusion_dfl.suite.runs.compile import check_parts, check_rule_of, make_task
from tests.configs import composed

FILES = sorted(CONFIG_DIRECTORY.rglob("*.yaml"))


TASKS = (
    "power",
    "portfolio",
    "synthetic",
    "inventory",
    "restaurant",
    "power_weather",
    "power_released",
    "portfolio_released",
    "synthetic_released",
)


def test_every_task_of_the_configuration_is_tested_here() -> None:
    assert sorted(TASKS) == sorted(path.stem for path in (CONFIG_DIRECTORY / "task").iterdir())


def _cells() -> list[Any]:
    """``(task, model, scale)``: of the fast ones, one varies beside those of the main job."""
    cells = []
    for task, model, scale in product(TASKS, CELLS, ("laptop", "paper", "demo", "smoke")):
        if task != "power" and scale in ("demo", "smoke"):  # every cell runs at smoke elsewhere
            continue
        others = (task != "power") + (model != "diffusion") + (scale != "laptop")
        cells.append(pytest.param(task, model, scale, marks=[pytest.mark.slow] * (others > 1)))
    return cells


@pytest.mark.parametrize(("task", "model", "scale"), _cells())
@pytest.mark.slow
def test_every_cell_composes_at_every_scale(task: str, model: str, scale: str) -> None:
    for grad in CELLS[model]:
        config = composed([f"task={task}", f"model={model}", f"grad={grad}", f"scale={scale}"])
        validate(config)
        check_rule_of(config, PowerProgram())
        # That the preset is its own reference, the main task shows.
        identity = identify(config, None if task == "power" else deciding_values(config))
        named = (config.task.name, config.model.name, config.grad.name, config.scale)
        assert named == (task, model, grad, scale)
        assert identity.differs == {}
        assert identity.path == Path(scale, task, f"{model}-{grad}", "seed-0")


def test_a_configuration_of_files_read_before_is_the_one_composed_anew() -> None:
    composed(["task=inventory", "grad=reparam"])
    for words in (
        ["task=inventory", "grad=reparam", "seed=3", "fit.epochs=7", "task.c0=1e-3"],
        ["grad=reparam", "data=csv", "data.file='a (1).csv'", "task=portfolio"],
        ["task=portfolio", "task.exclude=[AIG,HIG]", "fit.epochs=1", "fit.epochs=2"],
    ):
        assert OmegaConf.to_yaml(composed(words)) == OmegaConf.to_yaml(compose_config(words))


def test_a_bare_composition_is_the_main_job_on_real_data() -> None:
    config = compose_config([])
    assert (config.task.name, config.data.source) == ("power", "real")
    assert (config.model.name, config.grad.name) == ("diffusion", "score")


#: Of the sampler, whatever a preset says.
TEN_STEPS = ("model=diffusion", "model.num_sampling_steps=10")


def _settings(path: Path) -> list[tuple[str, bool]]:
    """``(line, has a comment)`` of every ``key: value`` line outside of ``hydra:``."""
    found = []
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match(r"^\w", line):
            section = line.split(":")[0]
        match = re.match(r"^( *)([A-Za-z_]\w*):(.*)$", line)
        if section in ("defaults", "hydra") or match is None:
            continue
        value, _, comment = match.group(3).partition(" #")
        if match.group(2) in ("name", "_target_", "scale", "source") or not value.strip():
            continue  # these repeat the name of the file, or open a section
        found.append((line.strip(), bool(comment.strip())))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIG_DIRECTORY)))
def test_every_key_of_the_main_files_says_what_it_is(path: Path) -> None:
    if path.parent.name in ("scale", "preset", "search"):
        assert path.read_text(encoding="utf-8").lstrip().startswith("#")
        return  # these give other values, or ranges, to keys explained where they are defined
    assert [line for line, commented in _settings(path) if not commented] == []


def test_the_walk_over_the_files_sees_their_keys() -> None:
    main = [line for line, _ in _settings(CONFIG_DIRECTORY / "config.yaml")]
    assert any(line.startswith("num_large:") for line in main)
    assert len(main) >= 10
    assert len(FILES) >= 14


@pytest.mark.parametrize(
    "override",
    ["nonsense=1", "fit.epoch=3", "model.widht=3", "grad.weight=1", "task.gamma=2"],
)
def test_an_unknown_key_is_refused(override: str) -> None:
    with pytest.raises(ConfigCompositionException) as refusal:
        compose_config([override])
    key = override.lstrip("+").split("=")[0].split(".")[-1]
    assert key in f"{refusal.value} {refusal.value.__cause__}"


@pytest.mark.parametrize("override", ["+fit.new=1", "+nonsense=2", "++model.widht=3"])
def test_an_added_key_is_refused_when_the_run_is_named(override: str) -> None:
    key = override.lstrip("+")
    with pytest.raises(UserError, match=rf"^{re.escape(key)}: there is no such key"):
        identify(composed([override]))


@pytest.mark.parametrize(
    "override",
    [
        "seed=three",
        "seed=1.5",
        "fit.epochs=1.5",
        "fit.learning_rate=fast",
        "force=maybe",
        "model.width=wide",
        "model.antithetic=7.5",
        "grad.fit_weight=much",
        "task.ramp=steep",
        "decision.num_scenarios=[1]",
    ],
)
def test_a_wrong_type_is_refused(override: str) -> None:
    with pytest.raises(ConfigCompositionException) as refusal:
        composed([override])
    assert override.split("=")[0] in f"{refusal.value} {refusal.value.__cause__}"


def _changed(key: str, value: object) -> DictConfig:
    config = composed(["model=gaussian", "grad=score", "data=simulated"])
    OmegaConf.update(config, key, value)
    return config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("threads", 0),
        ("matmul_precision", "tf32"),
        ("device", "tpu"),
        ("decision.num_scenarios", 0),
        ("decision.bandwidth_scale", -0.5),
        ("decision.on_failure", "ignore"),
        ("decision.max_failure_share", 1.5),
        ("evaluation.num_large", 10),
        ("task.shortage", -1.0),
        ("task.excess", -1.0),
        ("task.ramp", -1.0),
        *[
            (f"{stage}.{key}", value)
            for stage in ("foundation", "fit", "train")
            for key, value in (
                ("epochs", -1),
                ("batch_size", 0),
                ("learning_rate", 0.0),
                ("weight_decay", -1.0),
                ("decay", "linear"),
                ("gradient_clip", -1.0),
                ("ema_decay", 1.0),
                ("patience", -1),
                ("validate_every", 0),
                ("context_noise", -0.1),
                ("divergence_factor", -1.0),
            )
        ],
    ],
)
def test_a_value_no_run_can_work_with_is_refused_with_key_value_and_mend(
    key: str, value: object
) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(key)}={value} must be \S+"):
        checked(_changed(key, value))


def checked(config: DictConfig) -> None:
    """What a run refuses before it trains."""
    validate(config)
    check_parts(config)
    if config.task.name == "power" and config.data.source == "simulated":
        make_task(config)


@pytest.mark.parametrize(
    "key",
    [
        "task.shortage",
        "task.ramp",
        "fit.learning_rate",
        "train.gradient_clip",
        "train.divergence_factor",
        "grad.decision_weight",
    ],
)
def test_not_a_number_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(key)}=nan must be"):
        checked(_changed(key, float("nan")))


def test_the_score_of_the_exact_rule_is_refused_since_it_is_zero() -> None:
    with pytest.raises(UserError, match=r"decision\.bandwidth_scale=0.*set decision\.bandwidth"):
        check_rule_of(_changed("decision.bandwidth_scale", 0.0), PowerProgram())
    with pytest.raises(UserError, match=r"decision\.curvature=saa.*curvature=convolved"):
        check_rule_of(_changed("decision.curvature", "saa"), PowerProgram())
    with pytest.raises(UserError, match=r"decision\.num_scenarios=1.*at least 2"):
        check_rule_of(_changed("decision.num_scenarios", 1), PowerProgram())


def test_a_smooth_program_has_a_score_under_any_rule() -> None:
    check_rule_of(_changed("decision.bandwidth_scale", 0.0), ProductAllocation(24))
    check_rule_of(_changed("decision.curvature", "saa"), ProductAllocation(24))


def test_the_exact_rule_suits_the_other_estimators() -> None:
    for grad in ("two_stage", "reparam"):
        config = composed(["model=gaussian", f"grad={grad}", "decision.bandwidth_scale=0"])
        checked(config)
        check_rule_of(config, PowerProgram())


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["model.final_noise=false"], r"model\.final_noise=false .*model\.final_noise=true"),
        (
            ["model.sampler=ddim", "model.eta=0", "model.final_noise=false"],
            r"model\.eta=0.*model\.eta above",
        ),
        (
            ["model.sampler=dpm_solver", "model.final_noise=false"],
            r"model\.sampler=dpm_solver.*model\.sampler=ancestral",
        ),
    ],
)
def test_a_path_without_noise_in_every_step_is_refused(overrides: list[str], key: str) -> None:
    with pytest.raises(UserError, match=rf"^the path of .*{key}"):
        checked(composed(["grad=score_path", *overrides]))


def test_dropout_in_training_is_no_matter_of_paths() -> None:
    """They are drawn and judged without it by the estimator itself."""
    for dropout in ("true", "false"):
        checked(composed(["grad=score_path", f"train.dropout={dropout}"]))


@pytest.mark.parametrize("stage", ["foundation", "fit", "train"])
def test_a_stage_that_keeps_its_last_weights_has_nothing_to_be_patient_for(stage: str) -> None:
    words = ["model=gaussian", "grad=score", f"{stage}.keep=last"]
    with pytest.raises(UserError, match=rf"^{stage}\.patience=7 must be 0 with {stage}\.keep=last"):
        checked(composed([*words, f"{stage}.patience=7"]))
    checked(composed([*words, f"{stage}.patience=0"]))


@pytest.mark.parametrize(
    ("task", "source"),
    [
        ("power", "real"),
        ("portfolio", "sp500"),
        ("synthetic", "simulated"),
        ("inventory", "simulated"),
    ],
)
def test_every_task_has_its_own_data_by_default(task: str, source: str) -> None:
    assert composed([f"task={task}"]).data.source == source
    assert composed([f"task={task}", "data=simulated"]).data.source == "simulated"


@pytest.mark.parametrize(
    ("overrides", "refusal"),
    [
        (
            [*TEN_STEPS, "grad.backpropagation=last", "grad.last_steps=11"],
            r"^grad\.last_steps=11 must be at most model\.num_sampling_steps=10$",
        ),
        (
            ["model=gaussian", "grad.backpropagation=last", "grad.last_steps=1"],
            r"^grad\.backpropagation=last must be full: GaussianPredictor has no",
        ),
        (
            ["model=deterministic", "grad.backpropagation=checkpoint"],
            r"^grad\.backpropagation=checkpoint must be full: DeterministicPredictor has no",
        ),
    ],
)
def test_backpropagation_through_steps_that_do_not_exist_is_refused(
    overrides: list[str], refusal: str
) -> None:
    with pytest.raises(UserError, match=refusal):
        checked(composed(["grad=reparam", *overrides]))


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=gaussian"],
        ["grad.backpropagation=checkpoint"],
        [*TEN_STEPS, "grad.backpropagation=last", "grad.last_steps=10"],
    ],
)
def test_backpropagation_through_steps_that_exist_is_accepted(overrides: list[str]) -> None:
    checked(composed(["grad=reparam", *overrides]))


@pytest.mark.parametrize("rule", ["decision.curvature=paper", "decision.bandwidth_scale=0.1"])
def test_the_printed_formula_and_any_bandwidth_have_a_score(rule: str) -> None:
    check_rule_of(composed(["grad=score", rule]), PowerProgram())


@pytest.mark.parametrize(
    ("overrides", "refusal"),
    [
        (["grad=reparam", "decision.solver=cvxpy"], "decision.curvature=saa"),
        (["grad=reparam", "decision.solver=cvxpylayers"], "decision.curvature=saa"),
        (["grad=reparam", "decision.on_failure=reference"], "decision.on_failure=retry"),
    ],
)
def test_what_solves_exact_programs_only_is_refused_where_the_program_is_convolved(
    overrides: list[str], refusal: str
) -> None:
    config = composed(overrides)
    with pytest.raises(UserError, match=rf"^{re.escape(overrides[1])}.*{re.escape(refusal)}"):
        check_rule_of(config, PowerProgram())
    check_rule_of(config, ProductAllocation(24))  # a smooth program is never convolved


def test_cvxpylayers_has_no_score() -> None:
    config = composed(["grad=score", "decision.solver=cvxpylayers"])
    with pytest.raises(UserError, match=r"decision\.solver=cvxpylayers .*grad=reparam"):
        check_rule_of(config, ProductAllocation(24))
