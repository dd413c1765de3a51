"""The gradient laboratory: ``python scripts/gradient_lab.py linear``; ``--help`` lists the rest.

Files go to results/gradient_lab/.
"""

import argparse
import os
import sys

# Before numpy and torch start their pools: the laboratory's runs are one thread.
for _pool in ("OMP", "MKL", "OPENBLAS", "RAYON"):
    os.environ[f"{_pool}_NUM_THREADS"] = "1"

from laboratory import bias, linear, power, synthetic, variance  # noqa: E402

from diffusion_dfl.errors import UserError  # noqa: E402

# name -> module with add_arguments(parser) and run(arguments) -> exit code
COMMANDS = {
    "linear": linear,
    "synthetic": synthetic,
    "variance": variance,
    "power": power,
    "bias": bias,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        described = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(described)
        described.set_defaults(run=module.run)
    arguments = parser.parse_args()
    try:
        return arguments.run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
