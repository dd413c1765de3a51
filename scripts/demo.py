"""The main job in small: every kind of predictor, trained on simulated load, and their table."""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Names its data source: tables never mix simulated and real load.
COMMON = ["task=power", "data=simulated", "scale=smoke"]
SWEEPS = (
    ["model=deterministic,gaussian,diffusion,flow", "grad=two_stage"],
    ["model=deterministic", "grad=reparam"],
    ["model=gaussian,diffusion,flow", "grad=reparam,score"],
    ["model=policy", "grad=policy"],
)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for sweep in SWEEPS:
        command = [sys.executable, "train.py", *COMMON, *sweep, "-m"]
        print("$ python " + " ".join(command[1:]), flush=True)
        # Epoch lines go to the runs' metrics.jsonl; here only results are shown.
        finished = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
        if finished.returncode:
            print(finished.stderr, file=sys.stderr)
            return finished.returncode
    print(flush=True)
    table = ["scripts/make_tables.py", "--task", "power", "--scale", "smoke", "--data", "simulated"]
    printed = subprocess.run([sys.executable, *table], cwd=ROOT, check=False)
    print("runs are under results/runs/smoke/power/; smoke runs show that all works, not who wins")
    return printed.returncode


if __name__ == "__main__":
    sys.exit(main())
