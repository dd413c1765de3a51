"""Your runs, and the paper's figures from logged runs: results/figures/figureN.png and .pdf.

python scripts/make_figures.py                   all that have their runs; the others say what is missing
python scripts/make_figures.py figure3 figure7   these
python scripts/make_figures.py --published       from committed records alone
python scripts/make_figures.py --collect         the samples of figures 1 and 11 first (three short runs)
"""

import argparse
import sys
from pathlib import Path

from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.reporting.figures import (
    FIGURES,
    YOURS,
    FigureSource,
    MissingRuns,
    draw,
    draw_anew,
)
from diffusion_dfl.suite.reporting.figures.style import save


def make(names: list[str], source: FigureSource, output: Path | None) -> int:
    """Draw, and say where; how many figures have no runs."""
    committed, own = (output or source.results / "figures" / part for part in ("", "own"))
    mine = len(source.runs) and not source.runs["published"].all()
    if mine:
        print(*save(YOURS.make(source), own, "yours"))
    missing, old = 0, []
    for name in names:
        try:
            if mine and output is None:
                paths = draw_anew(source, name, committed, own)
            else:
                paths = draw(name, source, committed)
        except MissingRuns as error:
            missing += 1
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(*paths) if paths else old.append(name)
    if old:
        print(f"no run of yours is in {', '.join(old)}: they stand in {committed}")
    return missing


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="figureN", help="; ".join(FIGURES))
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument(
        "--output", type=Path, help="folder; <results>/figures, of own runs its own/"
    )
    parser.add_argument("--published", action="store_true", help="committed records only")
    parser.add_argument("--collect", action="store_true", help="make the data of figures 1 and 11")
    parser.add_argument("--list", action="store_true", help="what each shows and reads")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in FIGURES]
    if unknown:
        return fail(f"{unknown[0]}: there is no such figure; choices: {', '.join(FIGURES)}")
    if arguments.list:
        for name, entry in FIGURES.items():
            print(f"{name}: {entry.title}\n    reads {entry.reads}")
        return 0
    try:
        if arguments.collect:
            from diffusion_dfl.suite.reporting.figures.samples import collect

            for path in collect(arguments.results):
                print(path)
        source = FigureSource(arguments.results, own=not arguments.published)
        missing = make(arguments.names or list(FIGURES), source, arguments.output)
    except REFUSALS as error:
        return fail(explain(error))
    # Asked for by name, a figure without runs is a failure.
    return 1 if missing and arguments.names else 0


if __name__ == "__main__":
    sys.exit(piped(main))
