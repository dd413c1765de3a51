"""Numbers that no component could work with are refused, by their key, before anything runs."""

from collections.abc import Iterator

import pytest
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.config.compose import compose_config, validate
from diffusion_dfl.suite.runs.compile import check_parts, check_rule_of, make_task

#: What is a value all the same: no clip, no end, no limit, a bound of a logarithm, a price.
SOUND = {
    ("gradient_clip", "inf"), ("divergence_factor", "inf"), ("clip", "inf"), ("c0", "-1"), ("ramp", "inf"),
    ("min_log_variance", "-1"), ("max_log_variance", "-1"),
}  # fmt: skip
#: Of which 0 is no number of units, rows, steps or scenarios.
COUNTS = {
    "width", "base_width", "base_folds", "num_diffusion_steps", "num_sampling_steps", "num_scenarios",
    "num_large", "batch_size", "validate_every", "rounds", "leaves", "leaf_rows", "trees", "chunk_rows",
    "base_leaf_rows", "learning_rate", "threads", "num_products", "num_assets", "num_days", "z_max",
    "block_weeks",
}  # fmt: skip


def numbers(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in config.items():
        if isinstance(value, DictConfig):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def refused(config: DictConfig, key: str, bad: str, value: float) -> str | None:
    """What is said of a value; None where it is taken."""
    changed = config.copy()
    OmegaConf.update(changed, key, int(bad) if isinstance(value, int) else float(bad))
    try:
        validate(changed)
        check_parts(changed)
        if key.startswith(("task.", "data.")):
            check_rule_of(changed, make_task(changed).program)
    except UserError as error:
        return str(error)
    return None


def check(config: DictConfig, groups: tuple[str, ...]) -> int:
    found = 0
    for key, value in numbers(config):
        name = key.rpartition(".")[2]
        if not key.startswith(groups):
            continue
        kinds = ["-1"] + ["0"] * (name in COUNTS) + ["nan", "inf"] * isinstance(value, float)
        for bad in kinds:
            if (name, bad) in SOUND:
                continue
            said = refused(config, key, bad, value)
            assert said is not None, f"{key}={bad} is taken"
            assert f"{key}=" in said, f"{key}={bad}: {said}"
            found += 1
    return found


@pytest.mark.parametrize("model", CELLS)
@pytest.mark.slow
def test_numbers_of_a_model_and_its_estimators_are_refused_by_key(model: str) -> None:
    for grad in CELLS[model]:
        config = compose_config(["task=power", f"model={model}", f"grad={grad}"])
        assert check(config, ("model.", "grad."))


def test_numbers_of_a_run_are_refused_by_key() -> None:
    config = compose_config(["task=power", "model=diffusion", "grad=score"])
    groups = ("seed", "threads", "fit.", "train.", "foundation.", "decision.", "evaluation.")
    assert check(config, groups) > 30


@pytest.mark.parametrize(
    "words",
    [
        ("task=power", "data=simulated"),
        ("task=synthetic",),
        ("task=inventory",),
        ("task=portfolio", "data=simulated"),
    ],
)
def test_numbers_of_a_task_are_refused_by_key(words: tuple[str, ...]) -> None:
    config = compose_config([*words, "model=gaussian", "grad=reparam"])
    assert check(config, ("task.", "data."))
