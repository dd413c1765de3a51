"""Train one run or a sweep: ``python train.py model=diffusion grad=score -m seed=0-9``."""

import sys

import hydra
from omegaconf import DictConfig

from diffusion_dfl.cli import guarded
from diffusion_dfl.config.schema import register

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float:
    """One job: run it, say what came out, return its validation cost (for sweepers)."""
    # Imported late: --help and --cfg need neither torch nor data.
    from diffusion_dfl.reporting.console import announce
    from diffusion_dfl.training.run import run

    summary = run(config)
    announce(summary)
    return float(summary["validation"]["task"])


if __name__ == "__main__":
    sys.exit(guarded(main))
