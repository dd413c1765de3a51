"""Where runs stand: yours, then planned runs, what became of each, and the commands that complete it.

    diffusion-dfl status task=power,portfolio seed=0-9
    diffusion-dfl status --missing task=power model=diffusion grad=score seed=0-9

Without model= and grad= all pairs that make sense are planned; without anything, ten seeds of every
pair on the four tasks, and your runs are told first. Committed records count as finished but with
--own; --started asks about the sweeps that were started here. Tasks, models and grads of your own are
found by --config-dir, as for train.py.
"""

import argparse
import shlex
import sys
from pathlib import Path

from diffusion_dfl.files import printable
from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.config.identities import searching
from diffusion_dfl.suite.invocation import verb
from diffusion_dfl.suite.reporting.archive import Archive
from diffusion_dfl.suite.reporting.layout import LAYOUTS
from diffusion_dfl.suite.reporting.status import Planned, completing, overview, plan, state, yours
from diffusion_dfl.suite.sweep import started


def planned(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Arguments, ``overrides`` among them, and the words of the plan; those of Table 1 without any."""
    parser.add_argument("overrides", nargs="*", help="key=value or key=a,b, as train.py takes them")
    arguments = parser.parse_args()
    words = arguments.overrides or [f"task={','.join(LAYOUTS)}", "seed=0-9"]
    for word in words:
        if "=" not in word:
            parser.error(f"{word}: not of the form key=value")
    return arguments, words


def _planned(words: list[str]) -> list[Planned]:
    """The runs of a plan; none, which is said, of one that is none today."""
    try:
        return plan(words, every_pair=False)
    except REFUSALS as error:
        print(f"a plan is left out: {printable(explain(error))}", file=sys.stderr)
        return []


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--missing", action="store_true", help="the completing commands alone")
    parser.add_argument("--each", action="store_true", help="with --missing: a command a run")
    parser.add_argument("--own", action="store_true", help="do not count committed records")
    parser.add_argument("--started", action="store_true", help="the plans of sweeps started here")
    parser.add_argument("--config-dir", type=Path, help="folder of your own YAML files")
    arguments, words = planned(parser)
    if arguments.started and arguments.overrides:
        parser.error("--started takes its plans from the results folder; leave the overrides out")
    try:
        with searching(arguments.config_dir):
            if arguments.started:
                sweeps = started(arguments.results)
                every = (run for one in sweeps for run in _planned(one))
                runs = list(dict.fromkeys(every))
            else:
                runs = plan(words)
        published = {} if arguments.own else Archive(arguments.results / "published").hashes
    except REFUSALS as error:
        return fail(explain(error))
    states = {run: state(arguments.results, run, published) for run in runs}
    if arguments.missing:
        commands = list(completing(states, arguments.each))
        for command in commands:
            print(command)
        if not commands:
            # Not on stdout, which is a list for other programs.
            print("nothing is missing", file=sys.stderr)
    else:
        own = "" if arguments.overrides or arguments.started else yours(arguments.results)
        if own:
            print(f"{own}\n\nTable 1, as it is planned:")
        print(
            overview(states, shlex.join([*shlex.split(verb("status")), "--missing", *sys.argv[1:]]))
        )
    return 0
