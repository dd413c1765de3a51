"""How a task's numbers move with its parameters, from the run records: results/tables/sensitivity-<task>.md."""

import argparse
import sys
from pathlib import Path

from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.selection import choices, of_table, selection
from diffusion_dfl.suite.reporting.sensitivity import CONFIGURED, render, sensitivity


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=choices("task"), default="inventory")
    parser.add_argument("--scale", choices=choices("scale"), default="laptop")
    parser.add_argument(
        "--data", choices=choices("data"), help="data source of the runs; the task's default"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    try:
        runs = frame(collect(arguments.results))
    except REFUSALS as error:
        return fail(explain(error))
    wanted = selection(runs, arguments.task, arguments.scale, arguments.data)
    numbers = sensitivity(runs, wanted)
    if numbers.empty or not (numbers["setting"] != CONFIGURED).any():
        print(
            f"error: no records of task={arguments.task} scale={arguments.scale} in "
            f"{arguments.results} change a key of the task; run, say, "
            f"`python train.py task={arguments.task} task.KEY=VALUE`",
            file=sys.stderr,
        )
        return 1
    higher = bool(of_table(runs, wanted)["test.higher_is_better"].eq(True).any())
    text = render(numbers, wanted, higher)
    print(text)
    target = arguments.results / "tables" / f"sensitivity-{arguments.task}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    numbers.to_csv(target.with_suffix(".csv"), index=False, float_format="%.6g")
    print(f"written to {target} and {target.with_suffix('.csv')}")
    return 0


if __name__ == "__main__":
    sys.exit(piped(main))
