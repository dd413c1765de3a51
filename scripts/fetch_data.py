"""Download the real load data of the power task and check it: python scripts/fetch_data.py."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.download import ENVIRONMENT_VARIABLE, fetch_own
from diffusion_dfl.data.pjm import DEFAULT_DIRECTORY, PJM_FILES, PJM_URL


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when both files are in the folder and right, 1 with one line on stderr if not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=str(DEFAULT_DIRECTORY), help="where the files go")
    parser.add_argument("--url", default=PJM_URL, help="address of the folder with the files")
    options = parser.parse_args(arguments)
    base = options.url.rstrip("/") + "/"
    try:
        for name, sha256 in PJM_FILES.items():
            path = fetch_own(name, base + name, sha256, options.directory)
            print(f"{path}: sha256 {sha256} ok")
    except DataError as error:
        print(f"fetch_data: {error}", file=sys.stderr)
        return 1
    if os.environ.get(ENVIRONMENT_VARIABLE):
        print(f"note: {ENVIRONMENT_VARIABLE} is set and goes before {options.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
