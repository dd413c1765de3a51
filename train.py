"""Train one run or a sweep: ``python train.py model=diffusion grad=score -m seed=0-9``."""

import math
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusion_dfl.suite.cli import guarded, job
from diffusion_dfl.suite.config.schema import register

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float:
    """One job: run it, say what came out, return its validation cost (for sweepers)."""
    # Imported late: --help and --cfg need neither torch nor data.
    from diffusion_dfl.suite.reporting.console import announce
    from diffusion_dfl.suite.runs.run import run

    number = HydraConfig.get().job.get("num")
    cost = math.nan
    with job():
        summary = run(config, worker=0 if number is None else int(number))
        announce(summary, Path(config.output.root))
        validation = summary["validation"]["task"]
        if validation is not None:  # All rows before the test may have been trained on.
            cost = float(validation)
    return cost


if __name__ == "__main__":
    sys.exit(guarded(main))
