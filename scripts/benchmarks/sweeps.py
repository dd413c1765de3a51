"""A sweep by one process and by joblib's workers: wall clock of both, as a ratio, on idle cores."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from diffusion_dfl.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[2]

SWEEP = (
    "task=power",
    "data=simulated",
    "scale=smoke",
    "model=diffusion",
    "grad=score",
    "train.epochs=6",
    "-m",
    "seed=0-9",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))


def run(arguments: argparse.Namespace) -> int:
    """Alternate the two, compare their records, write sweeps.{json,md}; 0."""
    joblib = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={arguments.workers}"]
    seconds: dict[str, list[float]] = {"basic": [], "joblib": []}
    for _ in range(arguments.repeats):
        records = {}
        for name, words in (("basic", []), ("joblib", joblib)):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                _train([*words, *SWEEP, f"output.root={folder}"])
                seconds[name].append(time.perf_counter() - start)
                records[name] = sorted(
                    path.read_text() for path in Path(folder, "runs").rglob("rows.csv")
                )
        if records["basic"] != records["joblib"]:
            print("error: the launchers' runs differ", file=sys.stderr)
            return 1
    ratios = [one / many for one, many in zip(seconds["basic"], seconds["joblib"], strict=True)]
    record = {
        "command": "python scripts/benchmark.py sweeps",
        "sweep": " ".join(SWEEP),
        "workers": arguments.workers,
        "cores": os.cpu_count(),
        "hardware": platform.machine(),
        "seconds": seconds,
        "ratios": ratios,
    }
    write_json(arguments.output / "sweeps.json", record)
    lines = [
        "# A sweep of ten runs, one process against joblib",
        "",
        f"`{record['command']}`: `python train.py {record['sweep']}`, alternating; "
        f"{arguments.workers} workers on {os.cpu_count()} cores.",
        "",
        "| | seconds |",
        "|---|---|",
        *(f"| {name} | {', '.join(f'{x:.1f}' for x in told)} |" for name, told in seconds.items()),
        "",
        f"joblib is {median(ratios):.2f} times as fast (median; {min(ratios):.2f} to "
        f"{max(ratios):.2f}). The runs' rows are the same to the byte.",
    ]
    text = "\n".join(lines) + "\n"
    write_text(arguments.output / "sweeps.md", text)
    print(text)
    return 0


def _train(words: list[str]) -> None:
    command = [sys.executable, "train.py", *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
