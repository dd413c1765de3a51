"""The main job in small: every kind of predictor, trained on simulated load, and their table."""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.columns import methods
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.selection import selection
from diffusion_dfl.suite.reporting.table1 import Table, build

ROOT = Path(__file__).resolve().parents[1]
SCALE, SOURCE = "demo", "simulated"
COMMON = ["task=power", f"data={SOURCE}", f"scale={SCALE}"]
SWEEPS = (
    ["model=gaussian,diffusion,flow", "grad=two_stage,reparam,score"],
    ["model=deterministic", "grad=two_stage,reparam"],
    ["model=policy", "grad=policy"],
)
CAVEAT = """\
Simulated load, small networks, short training, one seed: this shows that every method runs and
what it prints. It does not show which one is best. Two minutes on one core."""
READING = """\
Cost: of the schedule of a test day; CRPS: of the predicted loads; less is better of both. Coverage:
of 90 % intervals. TS: two-stage; the rows below the policy are decision-focused. Seconds: of a run
without the fit that was there already; the rows of a model share one, which its TS row made. In
brackets: plain methods, to hold the others against. The runs are in {}."""
NEXT = "Next, a picture of what scenarios are for:"
COMMAND = "source .venv/bin/activate && python examples/quickstart.py"


def sweep(words: list[str], root: Path) -> int:
    """Train, with a line a run; the exit code."""
    command = [sys.executable, "train.py", *COMMON, *words]
    print("\n$ python " + " ".join([*command[1:], "-m"]), flush=True)
    # Epoch lines go to the runs' metrics.jsonl; of what else is said only an error is shown.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            [*command, f"output.root={root}", "-m"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            told = re.match(r"power (\S+) seed \d+ .*?, (\d+) s$", line)
            if told:
                print(f"  {told[1]}: {told[2]} s", flush=True)
        if process.wait():
            said.seek(0)
            print(said.read(), file=sys.stderr)
    return process.returncode


def table_of(results: Path) -> Table:
    """The demo's runs."""
    collection = collect(results)
    runs = frame(collection)
    return build(runs, selection(runs, "power", SCALE, SOURCE), collection.left_out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where runs go")
    results = parser.parse_args().results.absolute()
    print(CAVEAT)
    for words in SWEEPS:
        if code := sweep(words, results):
            return code
    place = results / "runs" / SCALE / "power"
    told = place.relative_to(ROOT) if place.is_relative_to(ROOT) else place
    print(f"\n{methods(table_of(results))}\n\n{READING.format(told)}\n\n{NEXT}\n\n    {COMMAND}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
