"""Prices as one table of days x tickers, and the checks that come before anything is trained.

Every source of prices hands over a tidy frame with the columns date, ticker, adj_close and volume.
`price_panel` turns it into a `PricePanel` or raises one error that names ticker, day and mend.
What may be real, a jump of the price, is not an error: `report_jumps` says it aloud.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError

logger = logging.getLogger(__name__)

# Exchanges close for a week at most in this century, or ten days over some new years.
LONGEST_CLOSURE_DAYS = 14
LARGEST_CHANGE = 0.5
_SPLIT_FACTORS = np.array([*range(2, 11), 15, 20, 25, 30, 50], dtype=np.float64)
# The day's own return moves an unadjusted split off its exact factor.
_SPLIT_TOLERANCE = 0.04
_JUMPS_SHOWN = 20


@dataclass(frozen=True)
class Window:
    """First and last day of the prices used, both included: datetime64[D]."""

    first: np.datetime64
    last: np.datetime64


# The days that pandas has nanoseconds for.
EVERY_DAY = Window(np.datetime64("1678-01-01", "D"), np.datetime64("2262-01-01", "D"))


@dataclass(frozen=True, eq=False)
class PricePanel:
    """Prices of n tickers on T trading days, checked.

    Attributes:
        dates: (T,) datetime64[D], strictly increasing.
        tickers: n names, the columns of the tables.
        close: (T, n) close adjusted for splits and dividends, positive, in the source's currency.
        volume: (T, n) shares traded, >= 0, or None where the source has none.
    """

    dates: NDArray[np.datetime64]
    tickers: tuple[str, ...]
    close: NDArray[np.float64]
    volume: NDArray[np.float64] | None

    @property
    def returns(self) -> NDArray[np.float64]:
        """(T - 1, n): row k is the return from day k to day k + 1, a fraction (0.01 is 1 %)."""
        return self.close[1:] / self.close[:-1] - 1.0


@dataclass(frozen=True)
class Jump:
    """A return too large to pass unseen.

    Attributes:
        ticker: whose price.
        date: the day it had the new price.
        change: the return of that day.
        split: the factor of the split it looks like, or 0.
    """

    ticker: str
    date: np.datetime64
    change: float
    split: int


def price_panel(frame: pd.DataFrame, window: Window) -> PricePanel:
    """Check a tidy frame and lay it out by day and ticker; column j is one ticker on every day.

    Args:
        frame: columns date (datetime64), ticker (str), adj_close and volume (float; volume NaN on
            every row where the source has none), each ticker's rows in order of time.
        window: days outside of it are left out before anything is checked.

    Raises:
        DataError: no day in the window; a ticker with two rows for a day, rows out of order or a
            missing trading day; a price that is not finite and positive; a volume that is
            missing on some rows only, or negative; all tickers silent for more than 14 days.
    """
    date = frame["date"].to_numpy(dtype="datetime64[D]")
    frame = frame[(date >= window.first) & (date <= window.last)]
    if frame.empty:
        raise DataError(
            f"prices: no day between task.first_day={window.first} and "
            f"task.last_day={window.last}; set them to days the source has."
        )
    _check_order(frame)
    _check_prices(frame)
    has_volume = _check_volumes(frame)
    close = frame.pivot(index="date", columns="ticker", values="adj_close").sort_index()
    dates = close.index.to_numpy(dtype="datetime64[D]")
    _check_gaps(close, dates)
    volume = None
    if has_volume:
        table = frame.pivot(index="date", columns="ticker", values="volume").sort_index()
        volume = table.to_numpy(dtype=np.float64)
    tickers = tuple(str(ticker) for ticker in close.columns)
    return PricePanel(dates, tickers, close.to_numpy(dtype=np.float64), volume)


def find_jumps(panel: PricePanel) -> list[Jump]:
    """Returns beyond +-50 %, and those of the size of a split, in order of time.

    A return within 4 % of what a split, or reverse split, of 2:1, 3:1, ..., 50:1 leaves in an
    unadjusted price carries that factor; a 2:1 split on a good day is a fall of less than a half.
    A 3:2 split cannot be told from a bad day.
    """
    returns = panel.returns
    factors = _split_factors(returns)
    rows, columns = np.nonzero((np.abs(returns) > LARGEST_CHANGE) | (factors > 0))
    return [
        Jump(
            panel.tickers[column],
            panel.dates[row + 1],
            float(returns[row, column]),
            int(factors[row, column]),
        )
        for row, column in zip(rows, columns, strict=True)
    ]


def report_jumps(panel: PricePanel) -> list[Jump]:
    """Log a warning that names every jump (the first 20 of many) and return them all.

    They stay in the data: a bank's worst days of 2008 are real. Whether one is, the reader judges.
    """
    jumps = find_jumps(panel)
    if jumps:
        lines = [_sentence(jump) for jump in jumps[:_JUMPS_SHOWN]]
        if len(jumps) > _JUMPS_SHOWN:
            lines.append(f"and {len(jumps) - _JUMPS_SHOWN} more")
        logger.warning(
            "prices: %d daily returns beyond +-50 %% or of the size of a split, kept as they are: %s",
            len(jumps),
            "; ".join(lines),
        )
    return jumps


def _sentence(jump: Jump) -> str:
    text = f"{jump.ticker} {jump.date} {jump.change:+.1%}"
    if not jump.split:
        return text
    kind = "split" if jump.change < 0 else "reverse split"
    return f"{text} (looks like an unadjusted {kind}, {jump.split}:1)"


def _split_factors(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor of the split each return looks like, 0 where it looks like none."""
    size = np.abs(np.log1p(returns))
    middles = np.sqrt(_SPLIT_FACTORS[1:] * _SPLIT_FACTORS[:-1])
    nearest = _SPLIT_FACTORS[np.searchsorted(np.log(middles), size)]
    return np.where(np.abs(size - np.log(nearest)) < _SPLIT_TOLERANCE, nearest, 0.0)


def _check_order(frame: pd.DataFrame) -> None:
    repeated = frame.duplicated(["ticker", "date"])
    if repeated.any():
        row = frame[repeated].iloc[0]
        raise DataError(
            f"prices: {row['ticker']} has two rows for {row['date'].date()} "
            f"({int(repeated.sum())} such rows); a ticker must have one row a day."
        )
    backwards = frame.groupby("ticker", observed=True)["date"].diff() < pd.Timedelta(0)
    if backwards.any():
        row = frame[backwards].iloc[0]
        raise DataError(
            f"prices: dates are out of order at {row['ticker']} {row['date'].date()} "
            f"({int(backwards.sum())} such rows); sort each ticker's rows by date."
        )


def _check_prices(frame: pd.DataFrame) -> None:
    price = frame["adj_close"].to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(price) & (price > 0))
    if bad.any():
        row = frame[bad].iloc[0]
        raise DataError(
            f"prices: adj_close of {row['ticker']} on {row['date'].date()} is {row['adj_close']} "
            f"({int(bad.sum())} such rows); prices must be finite and positive. Mend the rows or "
            f"leave the ticker out: task.exclude=[{row['ticker']}]."
        )


def _check_volumes(frame: pd.DataFrame) -> bool:
    """Whether there are volumes; part of them is an error."""
    volume = frame["volume"].to_numpy(dtype=np.float64)
    if np.isnan(volume).all():
        return False
    bad = ~(np.isfinite(volume) & (volume >= 0))
    if bad.any():
        row = frame[bad].iloc[0]
        raise DataError(
            f"prices: volume of {row['ticker']} on {row['date'].date()} is {row['volume']} "
            f"({int(bad.sum())} such rows); volumes must be finite and not negative, or missing on "
            "every row."
        )
    return True


def _check_gaps(close: pd.DataFrame, dates: NDArray[np.datetime64]) -> None:
    missing = close.isna().to_numpy()
    tickers = [str(ticker) for ticker in close.columns]
    if missing.any():
        counts = missing.sum(axis=0)
        worst = int(np.argmax(counts > 0))
        day = dates[int(np.argmax(missing[:, worst]))]
        names = [ticker for ticker, count in zip(tickers, counts, strict=True) if count]
        shown = ",".join(names[:10]) + (",..." if len(names) > 10 else "")
        raise DataError(
            f"prices: {names[0]} has no row for {day}, a day on which others traded "
            f"({counts[worst]} of its {len(dates)} days are missing; {len(names)} of "
            f"{len(counts)} tickers have gaps). Fill them, leave the tickers out with "
            f"task.exclude=[{shown}], or narrow task.first_day and task.last_day."
        )
    silent = np.flatnonzero(np.diff(dates).astype(int) > LONGEST_CLOSURE_DAYS)
    if len(silent):
        raise DataError(
            f"prices: no ticker has a row between {dates[silent[0]]} and {dates[silent[0] + 1]}; "
            f"a gap of more than {LONGEST_CLOSURE_DAYS} days means that part of the source is "
            "missing."
        )
