"""Table 1 from the run records: `make table1`, or this script with another scale or data source."""

import argparse
import sys
from pathlib import Path

from diffusion_dfl.config.arguments import CELLS
from diffusion_dfl.config.compose import CONFIG_DIRECTORY, compose_config, identify
from diffusion_dfl.reporting.collect import collect
from diffusion_dfl.reporting.table1 import Selection, render, render_twins, select


def choices(group: str) -> list[str]:
    """Names of a configuration group."""
    return sorted(path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--task", choices=choices("task"), default="power", help="which task's table"
    )
    parser.add_argument(
        "--scale", choices=choices("scale"), default="laptop", help="scale of the runs"
    )
    parser.add_argument(
        "--data", choices=choices("data"), default="real", help="data source of the runs"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where the records are"
    )
    parser.add_argument(
        "--published", action="store_true", help="committed records only; print and write nothing"
    )
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        parser.error(
            f"--results {arguments.results}: there is no such folder; name the one runs are in"
        )

    hashes = {}
    for model, grads in CELLS.items():
        for grad in grads:
            overrides = [
                f"task={arguments.task}",
                f"scale={arguments.scale}",
                f"data={arguments.data}",
                f"model={model}",
                f"grad={grad}",
            ]
            hashes[model, grad] = identify(compose_config(overrides)).config_hash
    wanted = Selection(arguments.task, arguments.scale, arguments.data, hashes)
    collection = collect(arguments.results, own=not arguments.published)
    cells, stale = select(collection.records, wanted)
    text = "\n".join(
        part
        for part in (render(cells, wanted, stale), render_twins(collection.records, wanted))
        if part
    )
    if arguments.published:
        print(text)
        return 0
    name = (
        "table1"
        if (arguments.scale, arguments.data) == ("laptop", "real")
        else (f"table1-{arguments.scale}-{arguments.data}")
    )
    target = arguments.results / "tables" / f"{name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(text)
    if collection.tuning:
        print(f"{collection.tuning} tuning runs did not look at the test days")
    if collection.left_out:
        print(f"{len(collection.left_out)} runs left out:")
        for line in collection.left_out[:20]:
            print(f"  {line}")
    print(f"written to {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
