"""Ablation tables from the run records: results/tables/ablations.md.

python scripts/make_ablations.py               the tables, with what is missing
python scripts/make_ablations.py --commands    the commands of their runs
"""

import argparse
import sys
from pathlib import Path

from diffusion_dfl.files import write_text
from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.reporting.ablations import AXES, commands, table
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=list(AXES), default="power")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--published", action="store_true", help="committed records only; print")
    parser.add_argument("--commands", action="store_true", help="the commands, and nothing else")
    parser.add_argument("--seeds", default="0-4", help="of the commands")
    arguments = parser.parse_args()
    if arguments.commands:
        print("\n".join(commands(arguments.task, arguments.seeds)))
        return 0
    try:
        collection = collect(arguments.results, own=not arguments.published)
        text = table(frame(collection), arguments.task, arguments.scale)
    except REFUSALS as error:
        return fail(explain(error))
    print(text)
    if not arguments.published:
        # The committed table is of committed records, and git's.
        own = any(not record.published for record in collection.records)
        path = arguments.results / "tables" / ("ablations-own.md" if own else "ablations.md")
        write_text(path, text + "\n")
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(piped(main))
