"""docs/gallery/ and the notebooks from examples/gallery/: ``make gallery``.

python scripts/make_gallery.py              run the scripts (two minutes, real data), then write all
python scripts/make_gallery.py --text       notebooks and pages alone; printed numbers stay
python scripts/make_gallery.py battery      one of them
"""

import argparse
import subprocess
import sys
from pathlib import Path

from docsite.gallery import NAMES, problems

from diffusion_dfl.files import write_text

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME")
    parser.add_argument("--text", action="store_true", help="run no script")
    arguments = parser.parse_args()
    for problem in problems(ROOT):
        if problem.name not in (arguments.names or NAMES):
            continue
        printed = None
        if not arguments.text:
            command = [sys.executable, str(problem.script)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                print(f"{problem.script.relative_to(ROOT)} failed", file=sys.stderr)
                return 1
            printed = done.stdout
        write_text(problem.notebook, problem.notebook_text())
        write_text(problem.page, problem.page_text(printed))
        print(f"written to {problem.page.relative_to(ROOT)}, {problem.notebook.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
