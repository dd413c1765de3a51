"""Search the hyperparameters of a row on the days before the test.

    python scripts/search.py task=power model=diffusion
    python scripts/search.py task=power model=diffusion grad=reparam

Without grad= the model's fit is searched first, then the decision stage of each of its rows. A study
goes on where it was stopped; several calls at once share it, as the workers of a launcher do:

    python scripts/search.py task=power model=diffusion hydra/launcher=dask --workers 8

What it found is written to
results/search/ and, when its budget is spent, to conf/preset/. No test row is loaded. Further key=value
are of all trials.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.reporting.statistics import mean_and_error
from diffusion_dfl.suite.search.report import describe, keep_twin, write_presets, write_table
from diffusion_dfl.suite.search.rows import Row, bench, rows_of
from diffusion_dfl.suite.search.sharing import LAUNCHER, search, share
from diffusion_dfl.suite.search.space import FOLDER, Budget


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
        for row in _rows(words, arguments.root):
            given = {"trials": arguments.trials, "seconds": arguments.seconds}
            budget = replace(row.budget, **{k: v for k, v in given.items() if v is not None})
            if not arguments.show:
                if arguments.workers > 1:
                    share(row, budget, arguments.workers, launcher)
                else:
                    search(row, budget)
            elif not row.journal.exists():
                print(f"{row.name}: not searched yet")
                continue
            _tell(row, budget, arguments)
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


def _tell(row: Row, budget: Budget, arguments: argparse.Namespace) -> None:
    """What a stage's search found, on the screen, in its table and in presets."""
    study, tried = row.study(), bench(arguments.root, torch.device("cpu"))
    if not arguments.show:
        twin = row.twin(tried, study)
        if twin:
            keep_twin(study, twin)
    print("\n".join(describe(row, study, budget)), flush=True)
    if arguments.calibration is not None and row.stage == "fit" and study.finished():
        for name, values in row.calibration(tried, study, arguments.calibration).items():
            mean, error = mean_and_error(values)
            print(f"  {name}: {mean:.4f} +- {error:.4f} over instances", flush=True)
    if study.trials:
        write_table(row, study)
    spent = len(study.trials) >= budget.trials or study.spent >= budget.seconds
    if study.finished() and (arguments.presets or (spent and not arguments.show)):
        for path in write_presets(row, study, arguments.preset_folder):
            print(f"  {path}")


def _rows(words: list[str], root: Path) -> list[Row]:
    named = dict(word.split("=", 1) for word in words if "=" in word)
    if len(named) < len(words) or not {"task", "model"} <= named.keys():
        raise UserError(
            f"{' '.join(words)}: expected task=NAME model=NAME and, if one row is meant, grad=NAME"
        )
    row = ("task", "model", "grad")
    others = tuple(f"{key}={value}" for key, value in named.items() if key not in row)
    found = rows_of(named["task"], named["model"], root, others)
    wanted = named.get("grad")
    chosen = [one for one in found if wanted in (None, one.grad)]
    if not chosen:
        raise UserError(
            f"model={named['model']} grad={wanted}: there is no such row; its grads are "
            f"{', '.join(one.grad for one in found)}"
        )
    return chosen


if __name__ == "__main__":
    sys.exit(main())
