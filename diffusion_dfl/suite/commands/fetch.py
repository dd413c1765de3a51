"""Download real data and check it: loads; with --restaurant demands, and with --prices prices too."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.download import ENVIRONMENT_VARIABLE, fetch_own
from diffusion_dfl.data.pjm import DEFAULT_DIRECTORY, PJM_FILES, PJM_URL
from diffusion_dfl.data.prices.sources import Sp500Prices
from diffusion_dfl.data.restaurant import YAZ_FILES, download_yaz


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every file is in the folder and right, 1 with one line on stderr if not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=str(DEFAULT_DIRECTORY), help="where the files go")
    parser.add_argument("--url", default=PJM_URL, help="address of the folder with the loads")
    parser.add_argument(
        "--prices", action="store_true", help="the prices of every S&P 500 ticker too (392 files)"
    )
    parser.add_argument(
        "--restaurant", action="store_true", help="the demands of task=restaurant too (2 files)"
    )
    options = parser.parse_args(arguments)
    base = options.url.rstrip("/") + "/"
    try:
        for name, sha256 in PJM_FILES.items():
            path = fetch_own(name, base + name, sha256, options.directory)
            print(f"{path}: sha256 {sha256} ok")
        if options.restaurant:
            for path, sha256 in zip(
                download_yaz(options.directory), YAZ_FILES.values(), strict=True
            ):
                print(f"{path}: sha256 {sha256} ok")
        if options.prices:
            source = Sp500Prices(directory=Path(options.directory), strict=False)
            tickers = source.tickers()
            rows = len(source.frame(tickers))
            print(f"{len(tickers)} tickers, {rows} prices ok")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if os.environ.get(ENVIRONMENT_VARIABLE):
        print(f"note: {ENVIRONMENT_VARIABLE} is set and goes before {options.directory}")
    return 0
