"""Studies that train models of their own: results/studies/.

    python scripts/make_study.py pays                  what is not made yet, and the tables of all there is
    python scripts/make_study.py pays --show           the tables alone
    python scripts/make_study.py pays --show --page    docs/pays.md too, whose claims must hold

Where decision-focused training pays (docs/reproduce.md). It goes on where it was stopped; two models can be
made at once, by two calls with --models.
"""

import argparse
import sys
from pathlib import Path

import torch

from diffusion_dfl.files import write_text
from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.reporting.claims import PAGES, render
from diffusion_dfl.suite.reporting.figures.style import save
from diffusion_dfl.suite.studies import pays, pays_report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["pays"])
    parser.add_argument("--models", nargs="+", choices=pays.MODELS, default=list(pays.MODELS))
    parser.add_argument(
        "--seeds", type=int, default=len(pays.SEEDS), help="how many of the study's, from the first"
    )
    parser.add_argument("--show", action="store_true", help="make nothing that is not there")
    parser.add_argument("--page", action="store_true", help="docs/pays.md with the study's numbers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("results/studies"))
    arguments = parser.parse_args()
    if not 1 <= arguments.seeds <= len(pays.SEEDS):
        parser.error(f"--seeds {arguments.seeds}: expected 1 to {len(pays.SEEDS)}")
    torch.set_num_threads(1)
    try:
        if not arguments.show:
            seeds = pays.SEEDS[: arguments.seeds]
            pays.run(arguments.folder, arguments.models, seeds, torch.device(arguments.device))
        lines = pays_report.everything(arguments.folder)
        if lines.empty:
            return fail(f"{arguments.folder} has no study yet; leave --show out to make it")
        if arguments.page:
            write_text(PAGES / "pays.md", render("pays", pays_report.numbers(lines)))
    except REFUSALS as error:
        return fail(explain(error))
    text = pays_report.render(lines)
    print(text)
    write_text(arguments.folder / "pays.md", text)
    save(pays_report.figure(lines), arguments.folder, "pays")
    return 0


if __name__ == "__main__":
    sys.exit(piped(main))
