"""Ten thousand finished runs: what status, table, report and a million decisions take; peak memory."""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from diffusion_dfl.files import sha256_of, write_json, write_text
from diffusion_dfl.suite.reporting.archive import Archive

ROOT = Path(__file__).resolve().parents[2]

#: What is to be held, seconds and MiB; None is not asked for.
GOALS: dict[str, tuple[float | None, float | None]] = {
    "status": (5, None),
    "table": (20, 500),
    "report": (20, 500),
    "predict, a tenth": (None, None),
    "predict": (None, None),
}
_SMALL = ("task=inventory", "model=gaussian", "grad=reparam", "scale=smoke", "fit.epochs=1")
# Committed configurations that stand-ins are copies of.
_CONFIGURATIONS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000_000, help="contexts to decide for")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))


def run(arguments: argparse.Namespace) -> int:
    """Make the runs, time the commands, write load.{json,md}; 1 where a goal is missed."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _stand_ins(root, arguments.runs)
        for name, words in _commands(root, arguments.rows):
            found[name] = _measured(words)
            print(f"{name}: {found[name]}", flush=True)
    command = f"python scripts/benchmark.py load --runs {arguments.runs} --rows {arguments.rows}"
    write_json(arguments.output / "load.json", {"command": command, "commands": found})
    lines = [
        "# Ten thousand runs and a million decisions",
        "",
        f"`{command}`: {arguments.runs} finished runs, {arguments.rows} rows to decide for (two shared cores).",
        "",
        "| | seconds of processor | wall clock | peak MiB | to reach |",
        "|---|---:|---:|---:|---|",
    ]
    for name, one in found.items():
        goal = ", ".join(
            f"{limit:g} {unit}"
            for limit, unit in zip(GOALS[name], ("s", "MiB"), strict=True)
            if limit is not None
        )
        lines.append(
            f"| {name} | {one['processor']:.1f} | {one['seconds']:.1f} | {one['mebibytes']:.0f} | {goal or '–'} |"
        )
    write_text(arguments.output / "load.md", "\n".join(lines) + "\n")
    missed = [
        name
        for name, (seconds, memory) in GOALS.items()
        if found[name]["processor"] > (seconds or 1e9) or found[name]["mebibytes"] > (memory or 1e9)
    ]
    print(f"missed: {', '.join(missed)}" if missed else "every goal is reached")
    return 1 if missed else 0


def _stand_ins(root: Path, count: int) -> None:
    """Finished runs of committed configurations, under as many seeds as it takes."""
    archive = Archive(ROOT / "results" / "published")
    cells = [path for path in archive.entries if path.startswith("laptop/power/")]
    cells = [path for path in cells if path.endswith("seed-0")][:_CONFIGURATIONS]
    for number in range(count):
        path, seed = cells[number % len(cells)], number // len(cells)
        content = archive.content(path)
        folder = root / "runs" / Path(path).parent / f"seed-{seed}"
        folder.mkdir(parents=True)
        summary = json.loads(content.summary)
        summary["identity"]["seed"] = seed
        rows = "".join(f"{day},{value:.6f}\n" for day, value in content.rows.items())
        texts = {
            "config.yaml": yaml.safe_dump({"seed": seed, **json.loads(content.config)}),
            "summary.json": json.dumps(summary, indent=1),
            "rows.csv": f"row,task\n{rows}",
            "metrics.jsonl": "".join(json.dumps(epoch) + "\n" for epoch in content.epochs),
        }
        for name, text in texts.items():
            (folder / name).write_text(text)
        digests = {name: sha256_of(folder / name) for name in texts}
        status = json.dumps({"status": "finished", "sha256": digests})
        (folder / "status.json").write_text(status)


def _commands(root: Path, rows: int) -> Iterator[tuple[str, list[str]]]:
    results = ["--results", str(root)]
    yield "status", ["scripts/status.py", "task=power", "seed=0-499", *results]
    yield "table", ["scripts/make_tables.py", "--task", "power", *results]
    yield "report", ["scripts/make_report.py", *results, "--output", str(root / "report.html")]
    _measured(["train.py", *_SMALL, f"output.root={root / 'small'}"])
    (trained,) = (root / "small" / "runs").glob("smoke/inventory/*/seed-0")
    for name, count in (("predict, a tenth", rows // 10), ("predict", rows)):
        contexts = _contexts(trained, root / f"{count}.csv", count)
        decisions = ["--output", str(root / "decisions.csv")]
        yield name, ["scripts/predict.py", str(trained), str(contexts), *decisions]


def _contexts(trained: Path, file: Path, count: int) -> Path:
    features = json.loads((trained / "interface.json").read_text())["features"]
    rng = np.random.default_rng(0)
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerow(features)
        for begin in range(0, count, 10_000):
            block = rng.random((min(10_000, count - begin), len(features)))
            np.savetxt(handle, block, fmt="%.4f", delimiter=",")
    return file


def _measured(words: list[str]) -> dict[str, float]:
    """Seconds and peak memory of a command of this checkout."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    # Peak memory of children is that of the largest so far: each is measured by a child of its own.
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(done.returncode)\n"
    )
    command = [sys.executable, "-c", script, sys.executable, *words]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "seconds": time.perf_counter() - begin,
        "mebibytes": int(done.stdout) / 1024,
    }
