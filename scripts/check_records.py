"""Published records against their digests and today's presets: `make check-records`.

Damage ends with code 1. Records of older presets are named: tables show them as they were published,
until `make publish` has put others in their place or `python scripts/publish.py --task NAME --retire` takes them out.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.reporting.checking import damaged, extra, outdated
from diffusion_dfl.suite.reporting.collect import collect


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    try:
        collection = collect(arguments.results, own=False)
        wrong = list(damaged(collection))
        old = Counter(path.parent for path in outdated(collection))
    except REFUSALS as error:
        return fail(explain(error))
    wrong += [f"{name}: is no file of the records" for name in extra(collection.archive)]
    print(f"{collection.archive.folder}: {len(collection.records)} records, {len(wrong)} damaged")
    for line in wrong:
        print(f"  {line}")
    if old:
        print(f"{old.total()} records in {len(old)} rows are of older presets:")
    for path, count in old.items():
        print(f"  {path.as_posix()}: {count}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(piped(main))
