"""Which features of the power task carry over to later years? Validation days only.

Fits the Gaussian two-stage model on subsets of the features and decides with M = 100, c = 1.5, on two
kinds of validation days: the week blocks training uses, and the whole of 2014, after a fit on the
years before it. The test period lies after 2014, so the second tells more about it. Writes
results/search/features.md.
"""

import argparse
import sys
from pathlib import Path

import torch

from diffusion_dfl.suite.search.features import study


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for line in study(arguments.seeds):
        lines.append(line)
        print(line, flush=True)
    target = arguments.results / "search" / "features.md"
    target.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print(f"written to {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
