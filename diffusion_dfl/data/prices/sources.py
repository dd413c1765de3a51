"""Where prices come from: public S&P 500 prices, a PyPI package, the user's file, a generator.

A source names its tickers first and is asked for the prices of some of them after, so that one
that downloads fetches no more than the assets drawn. What it hands over is a tidy frame: date
(datetime64), ticker (str), adj_close (adjusted for splits and dividends) and volume (shares,
adjusted for splits; NaN where the source has none). Whether it can be trusted is checked by
`price_panel`, for every source alike.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.download import ENVIRONMENT_VARIABLE, fetch, fetch_own
from diffusion_dfl.data.prices.panel import Window, price_panel
from diffusion_dfl.data.prices.simulated import TICKERS, simulated_prices
from diffusion_dfl.data.tidy import numbers_of, read_tidy

COLUMNS = ("date", "ticker", "adj_close", "volume")

SP500_URL = (
    "https://raw.githubusercontent.com/Pooksoft/PooksoftSP500EquityPriceDataSet/"
    "19a3f02fd0751beebae28e790ed55f0c443ad59a/daily_adjusted/"
)
SP500_PARQUET = "sp500_ohlcv_2004_2017.parquet"
SP500_PARQUET_SHA256 = "4cc5380a916dd18f4d5ce1ce3b7cecfbab77db6194b35060b3b433f697663da3"
# The parquet keeps so many digits of a price; both roads round alike, so they give one data set.
_PRICE_DIGITS = 7

_TICKERS_SHOWN = 10

SKFOLIO_FILE = Path("datasets", "data", "sp500_dataset.csv.gz")
SKFOLIO_SHA256 = "ee21cac28befb1d0a739a9ceb22184f995394726aa0cfde9a21941d1ac04ac0d"


class PriceSource(Protocol):
    """Names first, prices after."""

    def tickers(self) -> tuple[str, ...]:
        """Sorted names of all tickers there are."""

    def frame(self, tickers: Sequence[str]) -> pd.DataFrame:
        """Tidy prices of some of them; see the module's first lines. Raises DataError."""


def sp500_list() -> pd.DataFrame:
    """The 392 tickers of source sp500: ticker, sector, strict, csv_sha256.

    Members of April 2021 with a price on all 3,524 trading days of 2004-2017 (survivorship!).
    `strict` marks the 284 whose daily returns are never more than 5 % off a second vendor's.
    """
    path = resources.files("diffusion_dfl.data.prices").joinpath("tickers.csv")
    with path.open(encoding="utf-8") as file:
        # A ticker may be called NA or TRUE.
        return pd.read_csv(file, dtype=str, keep_default_na=False).assign(
            strict=lambda table: table["strict"] == "True"
        )


@dataclass(frozen=True)
class Sp500Prices:
    """Public prices of S&P 500 members, 2004-2017, each file pinned by its sha256.

    Where a folder is named (`data.root`, else the environment variable), it holds either the
    parquet of all tickers or one CSV a ticker. Otherwise the parquet is taken from `directory` if
    it lies there, and else the CSVs of the tickers asked for are downloaded into
    `directory`/sp500.

    Attributes:
        root: the user's folder, or None.
        url: address of the folder of CSVs.
        directory: where downloads land.
        strict: only the tickers that agree with a second vendor.
    """

    root: Path | None = None
    url: str = SP500_URL
    directory: Path = Path("data")
    strict: bool = True

    def tickers(self) -> tuple[str, ...]:
        table = sp500_list()
        chosen = table[table["strict"]] if self.strict else table
        return tuple(sorted(chosen["ticker"]))

    def frame(self, tickers: Sequence[str]) -> pd.DataFrame:
        parquet = self._parquet(tickers)
        if parquet is None:
            return pd.concat([self._csv(ticker) for ticker in tickers], ignore_index=True)
        table = pd.read_parquet(
            parquet,
            columns=["date", "ticker", "adj_close", "adj_volume"],
            filters=[("ticker", "in", list(tickers))],
        )
        return pd.DataFrame(
            {
                "date": pd.to_datetime(table["date"]),
                "ticker": table["ticker"].astype(str),
                "adj_close": table["adj_close"],
                "volume": table["adj_volume"].astype(np.float64),
            }
        )

    def _parquet(self, tickers: Sequence[str]) -> Path | None:
        """The checked parquet, or None where CSVs are to be used."""
        folder = self.root or _environment_folder()
        if folder is None:
            if (self.directory / SP500_PARQUET).exists():
                return fetch_own(SP500_PARQUET, self.url, SP500_PARQUET_SHA256, self.directory)
            return None
        if (folder.expanduser() / csv_name(tickers[0])).exists():
            return None
        return fetch(SP500_PARQUET, self.url, SP500_PARQUET_SHA256, self.directory, self.root)

    def _csv(self, ticker: str) -> pd.DataFrame:
        table = sp500_list().set_index("ticker")
        name, sha256 = csv_name(ticker), str(table.loc[ticker, "csv_sha256"])
        url = self.url.rstrip("/") + "/" + name
        path = fetch(name, url, sha256, self.directory / "sp500", self.root)
        rows = pd.read_csv(path)
        return pd.DataFrame(
            {
                "date": pd.to_datetime(rows["timestamp"], format="%Y-%m-%d"),
                "ticker": ticker,
                "adj_close": _significant(rows["adjusted_close"].to_numpy()),
                "volume": rows["volume"].to_numpy() * _later_splits(rows["split_coefficient"]),
            }
        )


@dataclass(frozen=True)
class SkfolioPrices:
    """Twenty US stocks, 1990-2022, shipped inside the PyPI package skfolio; no volumes.

    The file is read without importing the package, whose own dependencies are large, and is pinned
    by its sha256 (skfolio 1.12.2).
    """

    @cached_property
    def _table(self) -> pd.DataFrame:
        spec = importlib.util.find_spec("skfolio")
        if spec is None or not spec.submodule_search_locations:
            raise DataError(
                "data=skfolio: the package skfolio is not installed; run "
                "`pip install --no-deps skfolio==1.12.2` (only its data file is used), or use "
                "data=sp500."
            )
        path = Path(spec.submodule_search_locations[0]) / SKFOLIO_FILE
        mend = "install the tested version with `pip install --no-deps skfolio==1.12.2`."
        if not path.exists():
            raise DataError(f"data=skfolio: the package has no file {path.name}; {mend}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != SKFOLIO_SHA256:
            raise DataError(
                f"data=skfolio: {path.name} is not the pinned file: expected sha256 "
                f"{SKFOLIO_SHA256}, found {found}; {mend}"
            )
        return pd.read_csv(path, index_col="Date", parse_dates=["Date"])

    def tickers(self) -> tuple[str, ...]:
        return tuple(sorted(self._table.columns))

    def frame(self, tickers: Sequence[str]) -> pd.DataFrame:
        return _melt(self._table[list(tickers)])


@dataclass(frozen=True)
class CsvPrices:
    """The user's own tidy file: columns date (YYYY-MM-DD), ticker, adj_close, volume.

    The column volume may be empty or missing. The whole file is checked, not only the assets that
    happen to be drawn.

    Attributes:
        file: its path.
        window: days that are looked at.
        exclude: tickers left out before the check.
    """

    file: Path
    window: Window
    exclude: tuple[str, ...] = ()

    @cached_property
    def _table(self) -> pd.DataFrame:
        table = _read_prices(self.file)
        price_panel(table[~table["ticker"].isin(self.exclude)], self.window)
        return table

    @property
    def _inside(self) -> pd.DataFrame:
        date = self._table["date"].to_numpy(dtype="datetime64[D]")
        return self._table[(date >= self.window.first) & (date <= self.window.last)]

    def tickers(self) -> tuple[str, ...]:
        """Sorted names of the tickers with a day in the window, and of those excluded."""
        named = self._table["ticker"].isin(self.exclude)
        return tuple(sorted({*self._inside["ticker"], *self._table["ticker"][named]}))

    def frame(self, tickers: Sequence[str]) -> pd.DataFrame:
        return self._table[self._table["ticker"].isin(tickers)]

    def left_out(self) -> str:
        """What of the file is not used, in words; empty for nothing."""
        table, inside = self._table, self._inside
        kept = inside[~inside["ticker"].isin(self.exclude)]
        tickers = sorted(set(table["ticker"]) - set(kept["ticker"]))
        days = table["date"].nunique() - inside["date"].nunique()
        parts = [f"{len(table) - len(kept)} rows"] if len(kept) < len(table) else []
        parts += [f"{days} days outside of task.first_day and task.last_day"] if days else []
        if tickers:
            more = ", ..." if len(tickers) > _TICKERS_SHOWN else ""
            shown = ", ".join(tickers[:_TICKERS_SHOWN])
            parts.append(f"{len(tickers)} tickers ({shown}{more})")
        return ", ".join(parts)


@dataclass(frozen=True)
class SimulatedPrices:
    """The embedded generator; see :mod:`diffusion_dfl.data.prices.simulated`."""

    num_days: int = 1200

    def tickers(self) -> tuple[str, ...]:
        return TICKERS

    def frame(self, tickers: Sequence[str]) -> pd.DataFrame:
        table = simulated_prices(self.num_days)
        return table[table["ticker"].isin(tickers)]


def csv_name(ticker: str) -> str:
    """File name of a ticker's CSV of source sp500."""
    return f"DA-{ticker}-T-2021-04-21.csv"


def _environment_folder() -> Path | None:
    value = os.environ.get(ENVIRONMENT_VARIABLE, "")
    return Path(value) if value else None


def _significant(values: np.ndarray) -> np.ndarray:
    """Rounded to the digits the parquet keeps."""
    size = np.floor(np.log10(np.where(values > 0, values, 1.0)))
    factor = 10.0 ** (_PRICE_DIGITS - 1 - size)
    return np.round(values * factor) / factor


def _later_splits(coefficients: pd.Series[float]) -> np.ndarray:
    """(T,) product of the split coefficients of all later days."""
    product = coefficients.to_numpy()[::-1].cumprod()[::-1]
    return np.append(product[1:], 1.0)


def _melt(wide: pd.DataFrame) -> pd.DataFrame:
    """Tidy frame without volumes from a table of days x tickers; empty cells become no row."""
    close = wide.to_numpy(dtype=np.float64)
    days, size = close.shape
    frame = pd.DataFrame(
        {
            "date": np.repeat(wide.index.to_numpy(), size),
            "ticker": np.tile(np.array(wide.columns, dtype=object), days),
            "adj_close": close.ravel(),
            "volume": np.nan,
        }
    )
    return frame[frame["adj_close"].notna()]


def _read_prices(file: Path) -> pd.DataFrame:
    form = "a CSV with the columns date (YYYY-MM-DD), ticker, adj_close and volume"
    table = read_tidy(file, COLUMNS[:3], form)
    date = pd.to_datetime(table["date"], format="%Y-%m-%d", errors="coerce")
    if date.isna().any():
        line = date.index[int(np.argmax(date.isna().to_numpy()))]
        raise DataError(
            f"data.file={file}: line {line} has the date {table['date'][line]!r}; dates are written "
            "YYYY-MM-DD, such as 2014-12-31."
        )
    has_volume = "volume" in table.columns
    return pd.DataFrame(
        {
            "date": date,
            "ticker": table["ticker"].str.strip(),
            "adj_close": numbers_of(file, table["adj_close"]),
            "volume": numbers_of(file, table["volume"]) if has_volume else np.nan,
        }
    )
