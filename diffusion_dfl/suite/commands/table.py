"""Your runs, then Table 1 from the run records: `make table1`, or this script with another task, scale
or source."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.config.compose import digest
from diffusion_dfl.suite.config.identities import identity_of
from diffusion_dfl.suite.invocation import start
from diffusion_dfl.suite.reporting.collect import LeftOut, collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.latex import latex
from diffusion_dfl.suite.reporting.layout import LAYOUTS
from diffusion_dfl.suite.reporting.markdown import render
from diffusion_dfl.suite.reporting.own import (
    beside,
    own_in_columns,
    own_runs,
    own_tables,
    render_own,
)
from diffusion_dfl.suite.reporting.selection import Selection, choices, of_table, selection
from diffusion_dfl.suite.reporting.summary import in_columns, summary, with_block
from diffusion_dfl.suite.reporting.table1 import Table, build, tidy

#: Tables that git keeps, made of committed records alone.
COMMITTED = ("table1", "released")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--task", help="one task's table, a task of your own too; all that have records"
    )
    parser.add_argument(
        "--released", action="store_true", help="the tasks that repeat the authors' protocol, alone"
    )
    parser.add_argument(
        "--scale", choices=choices("scale"), help="scale of the runs; laptop, and any of yours"
    )
    parser.add_argument(
        "--data", choices=choices("data"), help="data source of the runs; each task's default"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where the records are"
    )
    parser.add_argument(
        "--published", action="store_true", help="committed records only; print and write nothing"
    )
    parser.add_argument(
        "--readme", type=Path, help="put Table 1 in short into this file, from committed records"
    )
    parser.add_argument(
        "overrides", nargs="*", help="key=value that all runs share, e.g. task.num_assets=20"
    )
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        parser.error(
            f"--results {arguments.results}: there is no such folder; name the one runs are in"
        )
    for word in arguments.overrides:
        if not re.match(r"[a-z_0-9.]+=", word):
            parser.error(f"{word}: not of the form key=value")
    arguments.yours = arguments.scale
    arguments.scale = arguments.scale or "laptop"
    return arguments


def file_name(arguments: argparse.Namespace) -> str:
    """``table1`` for the committed table, with what is asked for beyond it behind."""
    parts = ["released" if arguments.released else "table1", arguments.task, arguments.data]
    if arguments.scale != "laptop":
        parts.insert(1, arguments.scale)
    if arguments.overrides:
        parts.append(digest(sorted(arguments.overrides), 8))
    return "-".join(part for part in parts if part)


def _elsewhere(runs: pd.DataFrame, scale: str) -> str:
    """Where runs of the scale are that were not asked for."""
    there = runs[runs["scale"] == scale] if len(runs) else runs
    if there.empty:
        return ""
    sources = sorted(
        {
            f"--task {task} --data {source}"
            for task, source in zip(there["task"], there["source"], strict=True)
        }
    )
    return f" (there are some under {' and '.join(sources)})"


def _into(readme: Path, results: Path) -> int:
    """Table 1 in short, into the README."""
    try:
        runs = frame(collect(results, own=False))
        every = [build(runs, selection(runs, task, "laptop")) for task in LAYOUTS]
        tables = [table for table in every if table.seeds]
        text = with_block(readme.read_text(encoding="utf-8"), summary(tables))
    except REFUSALS as error:
        return fail(explain(error))
    except FileNotFoundError:
        return fail(f"--readme {readme}: there is no such file; name the README that has the table")
    readme.write_text(text, encoding="utf-8")
    print(f"written to {readme}")
    return 0


def _tell_left_out(runs: Sequence[LeftOut]) -> None:
    if runs:
        print(f"{len(runs)} runs left out:")
    for line in runs[:20]:
        print(f"  {line}")


def main() -> int:
    arguments = parse()
    if arguments.readme:
        return _into(arguments.readme, arguments.results)
    try:
        collection = collect(arguments.results, own=not arguments.published)
    except REFUSALS as error:
        return fail(explain(error))
    runs = frame(collection)
    known = choices("task")
    mine = set(runs["task"]) - set(known) if len(runs) else set()
    if arguments.task and arguments.task not in {*known, *mine}:
        there = ", ".join([*known, *sorted(mine)])
        return fail(
            f"--task {arguments.task}: there is no such task and no run of one; there are {there}"
        )
    tables: list[Table] = []
    selections: list[Selection] = []
    tasks = [task for task in known if task.endswith("_released") == arguments.released]
    if arguments.task:
        tasks = [arguments.task] if arguments.task in known else []
    yours = tasks if arguments.released else [arguments.task] if arguments.task else None
    own = own_tables(own_runs(runs, yours, arguments.yours))
    for task in tasks:
        if not arguments.task and not (len(runs) and (runs["task"] == task).any()):
            continue
        try:
            wanted = selection(runs, task, arguments.scale, arguments.data, arguments.overrides)
            table = build(runs, wanted, collection.left_out, collection)
            if arguments.overrides and not table.seeds:
                words = [f"task={task}", f"scale={arguments.scale}"]
                words += [f"data={arguments.data}"] if arguments.data else []
                identity_of((*words, *arguments.overrides))  # Words no run would take are refused.
        except REFUSALS as error:
            return fail(explain(error))
        if arguments.task or len(of_table(runs, wanted)):
            tables.append(table)
            selections.append(wanted)
    if not tables and not own:
        _tell_left_out(collection.left_out)
        print(
            f"error: no records of scale {arguments.scale} "
            + (f"and data={arguments.data} " if arguments.data else "and each task's own data ")
            + f"in {arguments.results}{_elsewhere(runs, arguments.scale)}; "
            f"run `{start()} scale={arguments.scale}` first",
            file=sys.stderr,
        )
        return 1
    text = "\n".join([*filter(None, [render_own(own)]), *(render(table) for table in tables)])
    if arguments.published or arguments.task:
        print(text)
    else:
        short = f"Table 1, scale {arguments.scale}\n\n{in_columns(tables)}" if tables else ""
        print("\n".join(filter(None, [own_in_columns(own), short])) + "\n")
    if arguments.published:
        return 0
    unseen = beside(runs, selections, tasks if arguments.task or arguments.released else known)
    if unseen:
        print("Your runs that stand in no table but yours, and what shows them as one:")
        print("\n".join(f"  {line}" for line in unseen))
    if collection.tuning:
        print(f"{len(collection.tuning)} tuning runs did not look at the test days")
    _tell_left_out(collection.left_out)
    written = _write(arguments, text, tables, any(not one.published for one in collection.records))
    every = "" if arguments.task else "every column, intervals, twins, plain baselines: "
    print(f"{every}written to {', '.join(str(path) for path in written)}")
    return 0


def _write(arguments: argparse.Namespace, text: str, tables: list[Table], own: bool) -> list[Path]:
    """The text, and the numbers as CSV and LaTeX where they are not those of the committed files.

    Args:
        own: whether the user has runs.
    """
    name = file_name(arguments)
    aside = name in COMMITTED and own  # The committed table is of committed records, and git's.
    target = arguments.results / "tables" / f"{name}{'-own' if aside else ''}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    written = [target]
    if not tables or (aside and not any(table.own for table in tables)):
        return written
    written.append(target.with_suffix(".csv"))
    tidy(tables).to_csv(written[-1], index=False, float_format="%.6g")
    typeset = "" if arguments.released else latex(tables)
    if typeset:
        written.append(target.with_suffix(".tex"))
        written[-1].write_text(typeset, encoding="utf-8")
    return written
