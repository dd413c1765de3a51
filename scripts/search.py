"""Search the hyperparameters of a row on the days before the test.

    python scripts/search.py task=power model=diffusion
    python scripts/search.py task=power model=diffusion grad=reparam

Without grad= the model's fit is searched first, then the decision stage of each of its rows. A study
goes on where it was stopped; several calls at once share it, as the workers of a launcher do:

    python scripts/search.py task=power model=diffusion hydra/launcher=dask --workers 8

What it found is written to results/search/ and, when its budget is spent, to conf/preset/. No test row
is loaded. Further key=value are of all trials.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.search.report import tell
from diffusion_dfl.suite.search.rows import rows_named
from diffusion_dfl.suite.search.sharing import LAUNCHER, share
from diffusion_dfl.suite.search.space import FOLDER


def main() -> int:
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)
    launcher = [word for word in arguments.words if word.startswith(LAUNCHER)]
    words = [word for word in arguments.words if word not in launcher]
    try:
        for name in ("workers", "trials"):
            value = getattr(arguments, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: expected 1 or more")
        if launcher and arguments.workers == 1:
            raise UserError(f"{launcher[0]}: say how many workers share the search, --workers 4")
        for row in rows_named(words, arguments.root):
            given = {"trials": arguments.trials, "seconds": arguments.seconds}
            budget = replace(row.budget, **{k: v for k, v in given.items() if v is not None})
            if not arguments.show:
                share(row, budget, arguments.workers, launcher)
            elif not row.journal.exists():
                print(f"{row.name}: not searched yet")
                continue
            tell(
                row,
                budget,
                arguments.preset_folder,
                arguments.calibration,
                arguments.show,
                arguments.presets,
            )
    except REFUSALS as error:
        return fail(explain(error))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words",
        nargs="+",
        help="task=, model=, grad= if one row is meant, what all trials share, hydra/launcher=",
    )
    parser.add_argument(
        "--preset-folder", type=Path, default=FOLDER.parent / "preset", help="conf/preset"
    )
    parser.add_argument("--root", type=Path, default=Path("results/search"))
    parser.add_argument("--trials", type=int, help="of each stage; conf/search/budget.yaml")
    parser.add_argument("--seconds", type=float, help="of each stage; conf/search/budget.yaml")
    parser.add_argument(
        "--workers", type=int, default=1, help="that share a stage, over the launcher"
    )
    parser.add_argument("--show", action="store_true", help="say what was found, and run nothing")
    parser.add_argument(
        "--calibration",
        nargs="*",
        metavar="KEY=VALUE",
        help="CRPS and coverage of a fit's winner, out of fold; with another sampler, say",
    )
    parser.add_argument(
        "--presets", action="store_true", help="write presets before the budget is spent"
    )
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    sys.exit(piped(main))
