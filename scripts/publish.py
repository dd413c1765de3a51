"""Copy finished records (no weights) from results/runs to results/published, where git keeps them."""

import argparse
import shutil
import sys
from pathlib import Path

from diffusion_dfl.reporting.collect import Record, collect
from diffusion_dfl.reporting.selection import choices, default_source, is_twin

RECORD = ("config.yaml", "summary.json", "metrics.jsonl", "env.json", "status.json", "rows.csv")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--task", choices=choices("task"), help="one task's records; all")
    parser.add_argument("--scale", choices=choices("scale"), default="laptop")
    parser.add_argument(
        "--data", choices=choices("data"), help="data source of the records; each task's default"
    )
    parser.add_argument(
        "--variants", action="store_true", help="records of changed presets too, not twins alone"
    )
    parser.add_argument(
        "--controls",
        action="store_true",
        help="presets of the processor that ablations ran on, to results/controls",
    )
    arguments = parser.parse_args()
    runs, published = arguments.results / "runs", arguments.results / "published"
    if arguments.controls:
        published = arguments.results / "controls" / "published"
    if not runs.is_dir():
        parser.error(
            f"--results {arguments.results}: there is no {runs}; name the folder runs are in"
        )
    tasks = [arguments.task] if arguments.task else choices("task")
    sources = {task: arguments.data or default_source(task) for task in tasks}
    collection = collect(arguments.results)
    counts = dict.fromkeys(tasks, 0)
    passed_over = 0
    for record in collection.records:
        identity = record.identity
        task = identity["task"]
        if record.published or identity["scale"] != arguments.scale or task not in sources:
            continue
        if identity["source"] != sources[task]:
            continue
        target = published / record.path
        if arguments.controls and record.identity["differs"]:
            continue
        if not (arguments.variants or target.exists() or wanted(record)):
            passed_over += 1
            continue
        if target.exists():
            shutil.rmtree(target)  # An older schema's files must not outlive it.
        target.mkdir(parents=True)
        for name in RECORD:
            if (runs / record.path / name).exists():
                shutil.copyfile(runs / record.path / name, target / name)
        counts[task] += 1
    for task, count in counts.items():
        print(f"{task}: {count} records of data={sources[task]} in {published}")
    if passed_over:
        print(f"{passed_over} variants left where they are; --variants copies them too")
    own = [run for run in collection.left_out if not run.published]
    if own:
        print(f"{len(own)} runs are no usable record:")
        for line in own[:20]:
            print(f"  {line}")
    return 0


def wanted(record: Record) -> bool:
    """Whether a record is one of the tables': a preset's, or its twin's."""
    differs = record.identity["differs"]
    changed = {key for key in differs if not key.startswith("data.")}
    return not changed or is_twin(differs)


if __name__ == "__main__":
    sys.exit(main())
