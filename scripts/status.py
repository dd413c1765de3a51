"""Where a sweep stands: planned runs, what became of each, and the commands that complete it.

    python scripts/status.py task=power,portfolio seed=0-9
    python scripts/status.py --missing task=power model=diffusion grad=score seed=0-9

Without model= and grad= all pairs that make sense are planned; without anything, ten seeds of every
pair on the four tasks.
"""

import argparse
import sys
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from diffusion_dfl.cli import explain
from diffusion_dfl.errors import UserError
from diffusion_dfl.reporting.layout import LAYOUTS
from diffusion_dfl.reporting.status import completing, overview, plan


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--missing", action="store_true", help="the completing commands alone")
    parser.add_argument("--each", action="store_true", help="with --missing: a command a run")
    parser.add_argument("overrides", nargs="*", help="key=value or key=a,b, as train.py takes them")
    arguments = parser.parse_args()
    words = arguments.overrides or [f"task={','.join(LAYOUTS)}", "seed=0-9"]
    for word in words:
        if "=" not in word:
            parser.error(f"{word}: not of the form key=value")
    try:
        runs = plan(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    if arguments.missing:
        commands = list(completing(arguments.results, runs, arguments.each))
        # A list of commands for other programs holds commands alone.
        print("\n".join(commands) if commands else "", end="\n" if commands else "")
        if not commands:
            print("nothing is missing", file=sys.stderr)
    else:
        print(overview(arguments.results, runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
