"""docs/audit.md: its numbers from records, studies and demonstrations.

python scripts/make_audit.py                 demonstrations anew (a minute, real data), then the text
python scripts/make_audit.py --text          the text alone, from what is committed
python scripts/make_audit.py --keys power    the numbers the text may name
"""

import argparse
import sys
from pathlib import Path

from diffusion_dfl.files import write_json, write_text
from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.reporting.audit import audit_tables, numbers
from diffusion_dfl.suite.reporting.claims import PAGES, render


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--output", type=Path, default=PAGES / "audit.md")
    parser.add_argument("--text", action="store_true", help="no demonstrations")
    parser.add_argument("--keys", help="list the numbers whose key begins so")
    arguments = parser.parse_args()
    try:
        if not arguments.text and arguments.keys is None:
            from diffusion_dfl.suite.reporting.demonstrations import demonstrations

            write_json(arguments.results / "audit" / "demonstrations.json", demonstrations())
        tables = audit_tables(arguments.results)
        values = numbers(arguments.results, tables)
        if arguments.keys is not None:
            for key, value in values.items():
                if key.startswith(arguments.keys):
                    print(f"{key}: {value}")
            return 0
        text = render("audit", values)
    except REFUSALS as error:
        return fail(explain(error))
    write_text(arguments.output, text)
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(piped(main))
