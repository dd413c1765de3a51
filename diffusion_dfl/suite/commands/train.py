"""Train one run or a sweep.

    diffusion-dfl train task=power model=diffusion grad=score -m seed=0-9

``python train.py`` of a clone is the same.
"""

import math
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusion_dfl.suite.cli import guarded, job
from diffusion_dfl.suite.config.schema import register
from diffusion_dfl.suite.places import CONFIG_DIRECTORY

register()


def main() -> int:
    """What ``sys.argv`` asks for; returns the exit code."""
    return guarded(_job)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name="config")
def _job(config: DictConfig) -> float:
    """One job: run it, say what came out, return its validation cost (for sweepers)."""
    # Imported late: --help and --cfg need neither torch nor data, and a refusal no torch.
    from diffusion_dfl.suite.config.compose import identify, validate

    hydra_config: Any = HydraConfig.get()
    number = hydra_config.job.get("num")
    cost = math.nan
    with job(None if number is None else list(hydra_config.overrides.task)):
        identify(config)
        validate(config)
        from diffusion_dfl.suite.reporting.console import announce
        from diffusion_dfl.suite.runs.run import run

        summary = run(config, worker=0 if number is None else int(number))
        announce(summary, Path(config.output.root))
        validation = summary["validation"]["task"]
        if validation is not None:  # All rows before the test may have been trained on.
            cost = float(validation)
    return cost
