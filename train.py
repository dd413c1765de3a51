"""Train one run or a sweep: ``python train.py model=diffusion grad=score -m seed=0-9``."""

import sys

from diffusion_dfl.suite.commands import run

if __name__ == "__main__":
    sys.exit(run("train"))
