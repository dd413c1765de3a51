"""results/report/index.html from the run records: `make report`, or this script with other runs.

    diffusion-dfl report
    diffusion-dfl report --results elsewhere task=power seed=0-4

What is planned is ten seeds of every pair on the four tasks, or what the words name, and the sweeps
that were started here.
"""

import argparse
from pathlib import Path

from diffusion_dfl.files import write_text
from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.commands.status import planned
from diffusion_dfl.suite.reporting.claims import PAGES
from diffusion_dfl.suite.reporting.page.gather import gather
from diffusion_dfl.suite.reporting.page.render import render
from diffusion_dfl.suite.reporting.status import plan
from diffusion_dfl.suite.sweep import started


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--output", type=Path, help="the page; RESULTS/report/index.html")
    arguments, words = planned(parser)
    if not arguments.results.is_dir():
        parser.error(f"--results {arguments.results}: there is no such folder")
    try:
        runs = plan(words)
    except REFUSALS as error:
        return fail(explain(error))
    for sweep in started(arguments.results):
        try:
            runs += plan(sweep, every_pair=False)
        except REFUSALS as error:
            print(f"a sweep that was started here cannot be planned any more: {explain(error)}")
    audit = PAGES / "audit.md"
    try:
        report = gather(arguments.results, audit, list(dict.fromkeys(runs)))
    except REFUSALS as error:
        return fail(explain(error))
    target = arguments.output or arguments.results / "report" / "index.html"
    write_text(target, render(report))
    if report.left_out:
        print(f"{len(report.left_out)} runs left out:")
        for run in report.left_out[:20]:
            print(f"  {run.path}: {run.detail}")
    for line in report.refused:
        print(f"no table of {line}")
    for path, count in report.damaged[:20]:
        print(f"{path}/metrics.jsonl: {count} lines are no epoch")
    print(f"written to {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0
