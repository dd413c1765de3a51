"""docs/config.md from conf/ and the schemas: every key, its type, default and meaning."""

import argparse
import sys
from pathlib import Path

from diffusion_dfl.files import write_text
from diffusion_dfl.suite.cli import fail
from diffusion_dfl.suite.config.reference import PAGE, render, without_meaning
from diffusion_dfl.suite.places import CONFIG_DIRECTORY


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=CONFIG_DIRECTORY.parent / PAGE)
    arguments = parser.parse_args()
    missing = without_meaning(CONFIG_DIRECTORY)
    if missing:
        return fail(f"keys without a comment that says what they mean: {'; '.join(missing)}")
    write_text(arguments.output, render(CONFIG_DIRECTORY))
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
