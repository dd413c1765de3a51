"""Mirrors of finished runs, made anew from their files: nothing is trained.

    diffusion-dfl mirror results/runs/laptop/power/gaussian-score/seed-0 --to wandb
    diffusion-dfl mirror results/runs/laptop/power/*/seed-* --to tensorboard

RUN is the directory that a run prints at its end. What the run's own mirror was goes; uploaded to W&B
it is the same run. Exit code 0: all are made; 2: some are not, which is said.
"""

import argparse
from pathlib import Path

from diffusion_dfl.suite.cli import REFUSALS, configure_logging, explain, fail
from diffusion_dfl.suite.runs.mirroring import makers, mirror

_PROJECT = "diffusion-dfl"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="directory of a finished run"
    )
    parser.add_argument("--to", choices=("wandb", "tensorboard"), required=True, help="what mirror")
    parser.add_argument("--project", default=_PROJECT, help=f"of W&B ({_PROJECT})")
    parser.add_argument("--entity", help="of W&B")
    parser.add_argument("--tags", default="", help="of W&B, with commas between")
    arguments = parser.parse_args()
    configure_logging()
    made = makers(
        [arguments.to],
        arguments.project,
        arguments.entity,
        list(filter(None, arguments.tags.split(","))),
    )
    code = 0
    for path in arguments.runs:
        try:
            epochs = mirror(path, made)
            print(f"{path / arguments.to}: {epochs} epochs and the record")
        except REFUSALS as error:
            code = fail(explain(error))
    return code
