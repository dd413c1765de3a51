"""docs/architecture.md and its picture from the source: ``make architecture``."""

import argparse
import sys
from pathlib import Path

from docsite import architecture, step

from diffusion_dfl.files import write_text

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    graph, calls = architecture.read(ROOT), step.way()
    picture, page = ROOT / "docs" / "architecture.svg", ROOT / "docs" / "architecture.md"
    text = page.read_text(encoding="utf-8")
    text = architecture.with_block(text, "packages", architecture.table(graph, page.parent))
    text = architecture.with_block(text, "step", step.table(calls))
    write_text(picture, architecture.picture(graph))
    write_text(page, text)
    files = {call.file for call in calls}
    print(
        f"written to {picture.relative_to(ROOT)}, {page.relative_to(ROOT)}; to the solver: "
        f"{len(calls)} functions of {sum(call.lines for call in calls)} lines in {len(files)} files"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
