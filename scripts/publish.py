"""Copy finished records (no weights) from results/runs to results/published, where git keeps them."""

import argparse
import json
import shutil
import sys
from pathlib import Path

RECORD = ("config.yaml", "summary.json", "metrics.jsonl", "env.json", "status.json", "rows.csv")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--data", default="real", help="data source of the records")
    arguments = parser.parse_args()
    runs, published = arguments.results / "runs", arguments.results / "published"
    count = 0
    for path in sorted((runs / arguments.scale).glob("*/*/seed-*/summary.json")):
        status = json.loads((path.parent / "status.json").read_text(encoding="utf-8"))["status"]
        summary = json.loads(path.read_text(encoding="utf-8"))
        if status != "finished" or not summary["test"]:
            continue
        if summary["identity"]["source"] != arguments.data:
            continue
        target = published / path.parent.relative_to(runs)
        target.mkdir(parents=True, exist_ok=True)
        for name in RECORD:
            if (path.parent / name).exists():
                shutil.copyfile(path.parent / name, target / name)
        count += 1
    print(f"{count} records in {published}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
