"""A short proof that a searched preset does what its search says: own runs of a few seeds, as a table.

    python train.py task=power model=gaussian,diffusion grad=two_stage,reparam -m seed=0-2
    python scripts/make_proof.py --task power --write

One line a configuration found in results/runs: test cost, the 90 % intervals' coverage, the level that the
plan really has, seconds, and the difference, paired over seeds, to the same run with decision weight 0.
Few seeds make no table of results: make table1 has those.
"""

import argparse
import sys
from pathlib import Path

from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.search.proof import render


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True)
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--write", action="store_true", help="to results/search/<task>-proof.md")
    arguments = parser.parse_args()
    runs = frame(collect(arguments.results))
    if not runs.empty:
        own = ~runs["published"].astype(bool)
        runs = runs[own & (runs["task"] == arguments.task) & (runs["scale"] == arguments.scale)]
    if runs.empty:
        parser.error(
            f"{arguments.results}/runs holds no finished run of task={arguments.task} "
            f"scale={arguments.scale}; make some with train.py"
        )
    text = render(runs, arguments.task)
    print(text)
    if arguments.write:
        path = arguments.results / "search" / f"{arguments.task}-proof.md"
        path.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
