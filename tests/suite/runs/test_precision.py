"""The precision of float32 products is chosen, not inherited: TF32 only where it is asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import fit_path, identify
from diffusion_dfl.suite.runs.directory import RunDirectory
from diffusion_dfl.suite.runs.run import run
from tests.configs import composed

TINY = (
    "data=simulated",
    "scale=smoke",
    "model=gaussian",
    "grad=two_stage",
    "fit.epochs=1",
    "data.num_days=200",
    "model.width=8",
    "decision.num_scenarios=3",
    "evaluation.test=false",
    "device=cpu",
)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("asked", ["highest", "high"])
def test_a_run_takes_the_precision_it_is_told_whatever_the_process_had(
    asked: str, tmp_path: Path
) -> None:
    torch.set_float32_matmul_precision("high" if asked == "highest" else "highest")
    more = [] if asked == "highest" else ["matmul_precision=high"]
    run(composed([*TINY, *more, f"output.root={tmp_path}"]))
    assert torch.get_float32_matmul_precision() == asked
    assert torch.backends.cuda.matmul.allow_tf32 == (asked == "high")


def test_another_precision_is_another_run_with_another_fit() -> None:
    plain, fast = composed(TINY), composed([*TINY, "matmul_precision=high"])
    assert identify(fast).differs["matmul_precision"] == "high"
    assert identify(fast).config_hash != identify(plain).config_hash
    assert fit_path(fast) != fit_path(plain)


def test_a_directory_from_before_there_was_a_choice_is_of_the_highest(tmp_path: Path) -> None:
    config = composed(TINY)
    directory = RunDirectory(tmp_path)
    with directory.locked():
        directory.claim(config, force=False)
        stored = OmegaConf.load(tmp_path / "config.yaml")
        del stored["matmul_precision"]
        OmegaConf.save(stored, tmp_path / "config.yaml")
        directory.claim(config, force=False)
        with pytest.raises(UserError, match=r"matmul_precision \('highest' there, 'high' here\)"):
            directory.claim(composed([*TINY, "matmul_precision=high"]), force=False)
