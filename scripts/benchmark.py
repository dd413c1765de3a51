"""Benchmarks: ``python scripts/benchmark.py solvers``. Files go to results/benchmarks/."""

import argparse
import os
import sys

# Before numpy and torch start their pools: a benchmark here is one thread.
for _pool in ("OMP", "MKL", "OPENBLAS", "RAYON"):
    os.environ[f"{_pool}_NUM_THREADS"] = "1"

from benchmarks import files, load, memory, solvers, sweeps, training, users  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    modules = {
        "solvers": solvers,
        "users": users,
        "training": training,
        "memory": memory,
        "sweeps": sweeps,
        "load": load,
        "files": files,
    }
    for name, module in modules.items():
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
