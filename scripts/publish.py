"""Finished runs of results/runs into the published records, results/published, without their weights.

What does not belong there is named with the reason: failed and unfinished runs, tuning runs, other
scales and data sources, older presets, damaged files.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.own import TRIED_OUT
from diffusion_dfl.suite.reporting.publishing import Wanted, publish
from diffusion_dfl.suite.reporting.selection import choices, default_source


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--task", choices=choices("task"), help="one task's records; all")
    scales = [scale for scale in choices("scale") if scale not in TRIED_OUT]
    parser.add_argument("--scale", choices=scales, default="laptop")
    parser.add_argument(
        "--data", choices=choices("data"), help="data source of the records; each task's default"
    )
    parser.add_argument(
        "--variants", action="store_true", help="records of changed presets too, not twins alone"
    )
    parser.add_argument(
        "--retire",
        action="store_true",
        help="take out published records that today's presets would make otherwise",
    )
    arguments = parser.parse_args()
    results = arguments.results
    if arguments.retire and not arguments.task:
        parser.error("--retire takes records out: name their task with --task")
    if not arguments.retire and not (results / "runs").is_dir():
        parser.error(
            f"--results {results}: there is no {results}/runs; name the folder runs are in"
        )
    tasks = [arguments.task] if arguments.task else choices("task")
    folder = results / "published"
    try:
        sources = {task: arguments.data or default_source(task) for task in tasks}
        wanted = Wanted(sources, arguments.scale, arguments.variants, arguments.retire)
        done = publish(collect(results), wanted, folder)
    except REFUSALS as error:
        return fail(explain(error))
    counts = Counter(path.parts[1] for path in done.paths)
    for task in tasks:
        print(f"{task}: {counts[task]} records of data={sources[task]} into {folder}")
    tell(done.replaced, "records of another configuration gave way")
    tell(done.retired, "records of older presets are published no longer; git has them")
    tell(done.passed_over, "variants left where they are; --variants publishes them too")
    tell(done.refused, "runs do not belong there")
    return 0


def tell(names: Sequence[Any], what: str) -> None:
    """How many there are, and the first twenty by name."""
    if names:
        print(f"{len(names)} {what}:")
        for name in names[:20]:
            print(f"  {name}")


if __name__ == "__main__":
    sys.exit(piped(main))
