"""The paper's own source: Quandl's WIKI end-of-day prices, for those who have a key.

The key is read from the environment variable QUANDL_API_KEY, sent in a header over https to the
address asked for and to no other, and never written anywhere. WIKI was closed to new users in
2018; the tickers are those of source sp500. The answers are kept in `directory`/quandl; there is
no checksum to hold them against.
"""

from __future__ import annotations

import http.client
import io
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.download import TIMEOUT_SECONDS
from diffusion_dfl.data.prices.panel import Window
from diffusion_dfl.data.prices.sources import sp500_list

QUANDL_URL = "https://data.nasdaq.com/api/v3/datasets/WIKI/"
KEY_VARIABLE = "QUANDL_API_KEY"


@dataclass(frozen=True)
class QuandlPrices:
    """Adjusted closes and volumes of WIKI, one answer a ticker.

    Attributes:
        window: days asked for.
        url: address of the WIKI database; https only.
        directory: where answers are kept.

    Raises DataError when it is made without a key or with an address that is not https.
    """

    window: Window
    url: str = QUANDL_URL
    directory: Path = Path("data")

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise DataError(f"data.url={self.url}: the key is sent over https only.")
        if not os.environ.get(KEY_VARIABLE, ""):
            raise DataError(
                f"data=quandl: the environment variable {KEY_VARIABLE} is not set; put your key "
                "of data.nasdaq.com there, or use data=sp500, which needs none."
            )

    def tickers(self) -> tuple[str, ...]:
        return tuple(sorted(sp500_list()["ticker"]))

    def frame(self, tickers: Sequence[str]) -> pd.DataFrame:
        return pd.concat([self._one(ticker) for ticker in tickers], ignore_index=True)

    def _one(self, ticker: str) -> pd.DataFrame:
        kept = self.directory / "quandl" / f"{ticker}-{self.window.first}-{self.window.last}.csv"
        if kept.exists():
            text = kept.read_text(encoding="utf-8")
        else:
            text = self._ask(ticker)
        try:
            rows = pd.read_csv(io.StringIO(text))
            frame = pd.DataFrame(
                {
                    "date": pd.to_datetime(rows["Date"], format="%Y-%m-%d"),
                    "ticker": ticker,
                    "adj_close": rows["Adj. Close"].astype(np.float64),
                    "volume": rows["Adj. Volume"].astype(np.float64),
                }
            )
        except (KeyError, ValueError) as error:
            raise DataError(
                f"data=quandl: the answer for {ticker} is not a table of WIKI prices "
                f"({type(error).__name__}); delete it from {kept.parent.name}/ and ask again, or "
                f"leave the ticker out with task.exclude=[{ticker}]."
            ) from error
        if not kept.exists():
            _keep(kept, text)
        return frame.sort_values("date", ignore_index=True)

    def _ask(self, ticker: str) -> str:
        url = (
            f"{self.url.rstrip('/')}/{ticker.replace('.', '_')}.csv"
            f"?start_date={self.window.first}&end_date={self.window.last}&order=asc"
        )
        request = urllib.request.Request(url)
        # Unredirected headers stay behind when the server points elsewhere.
        request.add_unredirected_header("X-Api-Token", os.environ[KEY_VARIABLE])
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return str(response.read().decode("utf-8"))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                mend = f"WIKI has no such ticker: leave it out with task.exclude=[{ticker}]"
            else:
                mend = f"check the key in {KEY_VARIABLE} and its limits, or use data=sp500"
            raise DataError(
                f"data=quandl: the server answered {error.code} for {ticker}; {mend}."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"data=quandl: {ticker} cannot be had ({type(error).__name__}); check the "
                "connection, or use data=sp500."
            ) from error


def _keep(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise DataError(
            f"data.directory={path.parent.parent}: {path.name} cannot be written "
            f"({error.strerror}). Set data.directory=FOLDER to a folder you may write to."
        ) from error
