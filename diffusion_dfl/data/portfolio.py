"""The data set of the portfolio task (sections 6.3 and A.11), sound protocol: date-major.

Row i is a day: contexts known at its close, outcomes the returns of the same n assets on the next
trading day. The assets are drawn once, before anything else, by the run's generator, so that every
phase and every method of a seed sees the same ones.

Split by time, as in the paper: test 2015 to 2017, validation the eighteen months before, training
everything earlier. The paper validates on 2014 alone; a mean daily return over 252 days has a
standard error of about 0.05 percentage points, larger than most differences between methods, and
the half year more costs 5 % of the training rows. One block at the end, rather than blocks drawn
from all years, because a portfolio is judged on days after its training, never between them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError, Dataset
from diffusion_dfl.data.prices import (
    EVERY_DAY,
    CsvPrices,
    PricePanel,
    PriceSource,
    QuandlPrices,
    SimulatedPrices,
    SkfolioPrices,
    Sp500Prices,
    Window,
    price_features,
    price_panel,
    report_jumps,
    target_dates,
)
from diffusion_dfl.data.prices.quandl import QUANDL_URL
from diffusion_dfl.data.prices.sources import SP500_URL
from diffusion_dfl.data.splits import Split

logger = logging.getLogger(__name__)

PRICE_SOURCES = ("sp500", "skfolio", "csv", "quandl", "simulated")

#: Days used and split by where none are named; a file of the user's own has its own.
DAYS = {
    "first_day": "2004-01-01",
    "last_day": "2017-12-29",
    "validation_start": "2013-07-01",
    "test_start": "2015-01-01",
}
# The paper's shares, for days that are not the paper's.
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2

#: Trading days that are of one fold (:mod:`.folds`): a month.
BLOCK_DAYS = 21


@dataclass(frozen=True, eq=False)
class PortfolioDataset(Dataset):
    """A `Dataset` whose outcomes are returns (fractions a day) of named assets.

    `source` is "simulated" for the generator and "real" for every other source of prices.

    Attributes:
        price_source: one of `PRICE_SOURCES`.
        assets: n tickers, in the order of the columns of `outcomes`.
    """

    price_source: str
    assets: tuple[str, ...]


def portfolio_dataset(
    source: str,
    rng: np.random.Generator,
    *,
    num_assets: int = 50,
    first_day: str | None = None,
    last_day: str | None = None,
    validation_start: str | None = None,
    test_start: str | None = None,
    strict: bool = True,
    exclude: Sequence[str] = (),
    root: str | Path | None = None,
    url: str | None = None,
    directory: str | Path = "data",
    file: str | Path | None = None,
    num_days: int = 1200,
) -> PortfolioDataset:
    """Contexts (N, 28), next-day returns (N, n) and a split by time.

    sp500 at the defaults: N = 3463 rows, targets 2004-03-31 to 2017-12-29; 2328 train, 380
    validate, 755 test.

    Args:
        source: sp500 (or "real", its other name), skfolio, csv, quandl or simulated.
        rng: draws the assets, n of the source's sorted tickers without replacement; nothing else.
        num_assets: n, at least 2.
        first_day, last_day: days of the prices used, YYYY-MM-DD, both included; None: those of
            `DAYS`, or all of the user's file. Simulated prices have days of their own.
        validation_start, test_start: first target day of either part; None: those of `DAYS`, or
            70/10/20 of the rows of the user's file. Simulated days are split 70/10/20.
        strict: sp500 only: draw from the tickers that agree with a second vendor.
        exclude: tickers never drawn.
        root, url, directory: where files are looked for, downloaded from and kept.
        file: the user's file, for source csv.
        num_days: simulated days.

    Raises:
        DataError: an unknown source, prices that cannot be had or trusted, too few tickers, or
            days that leave a part of the split empty.
    """
    source = "sp500" if source == "real" else source
    given = (first_day, last_day, validation_start, test_start)
    named = {key: text for key, text in zip(DAYS, given, strict=True) if text is not None}
    if source not in ("csv", "simulated"):
        named = {**DAYS, **named}
    days = {key: _day(f"task.{key}", text) for key, text in named.items()}
    if source == "simulated":
        days = {}
    window = Window(days.get("first_day", EVERY_DAY.first), days.get("last_day", EVERY_DAY.last))
    prices = _open(source, window, strict, exclude, root, url, directory, file, num_days)
    assets = _draw(prices.tickers(), num_assets, exclude, rng, source)
    panel = price_panel(prices.frame(assets), window)
    report_jumps(panel)
    dates = target_dates(panel)
    split = _split(dates, *_edges(dates, days.get("validation_start"), days.get("test_start")))
    if isinstance(prices, CsvPrices):
        _tell(prices, panel, dates, split)
    features = price_features(panel, split.train)
    return PortfolioDataset(
        name="portfolio",
        source="simulated" if source == "simulated" else "real",
        contexts=features.contexts,
        outcomes=features.outcomes,
        dates=dates,
        feature_names=features.names,
        train=split.train,
        validation=split.validation,
        test=split.test,
        price_source=source,
        assets=panel.tickers,
        block_rows=BLOCK_DAYS,
        gap_rows=1,
    )


def _open(
    source: str,
    window: Window,
    strict: bool,
    exclude: Sequence[str],
    root: str | Path | None,
    url: str | None,
    directory: str | Path,
    file: str | Path | None,
    num_days: int,
) -> PriceSource:
    if source == "sp500":
        folder = Path(root) if root else None
        return Sp500Prices(folder, url or SP500_URL, Path(directory), strict)
    if source == "skfolio":
        return SkfolioPrices()
    if source == "quandl":
        return QuandlPrices(window, url or QUANDL_URL, Path(directory))
    if source == "simulated":
        return SimulatedPrices(num_days)
    if source != "csv":
        raise DataError(
            f"data={source}: there is no such source of prices; use one of "
            f"{', '.join(PRICE_SOURCES)}."
        )
    if not file:
        raise DataError("data=csv: set data.file=FILE to your file of prices.")
    return CsvPrices(Path(file), window, tuple(exclude))


def _draw(
    tickers: tuple[str, ...],
    num_assets: int,
    exclude: Sequence[str],
    rng: np.random.Generator,
    source: str,
) -> tuple[str, ...]:
    """The run's assets, sorted."""
    unknown = sorted(set(exclude) - set(tickers))
    if unknown:
        raise DataError(
            f"task.exclude: source {source} has no ticker {unknown[0]}; its tickers look like "
            f"{', '.join(tickers[:5])}."
        )
    universe = [ticker for ticker in tickers if ticker not in exclude]
    if num_assets < 2:
        raise DataError(
            f"task.num_assets={num_assets}: a portfolio chooses between assets; take at least 2."
        )
    if num_assets > len(universe):
        raise DataError(
            f"task.num_assets={num_assets}: source {source} has {len(universe)} tickers to draw "
            f"from; add task.num_assets={len(universe)}, or fewer, or take another source."
        )
    chosen = rng.choice(len(universe), size=num_assets, replace=False)
    return tuple(sorted(universe[index] for index in chosen))


def _edges(
    dates: NDArray[np.datetime64],
    validation_start: np.datetime64 | None,
    test_start: np.datetime64 | None,
) -> tuple[int, int]:
    """First rows of validation and test; parts that are not named share what is left to them."""
    rows = len(dates)
    if test_start is not None:
        test = int(np.searchsorted(dates, test_start))
    elif validation_start is not None:
        validation = int(np.searchsorted(dates, validation_start))
        held = rows - validation
        return validation, validation + round(
            VALIDATION_SHARE / (VALIDATION_SHARE + TEST_SHARE) * held
        )
    else:
        return round((1 - TEST_SHARE - VALIDATION_SHARE) * rows), round((1 - TEST_SHARE) * rows)
    if validation_start is not None:
        return int(np.searchsorted(dates, validation_start)), test
    return round((1 - VALIDATION_SHARE / (1 - TEST_SHARE)) * test), test


def _tell(
    prices: CsvPrices, panel: PricePanel, dates: NDArray[np.datetime64], split: Split
) -> None:
    """Log what is used of the user's file, and what is left out."""
    left = prices.left_out()
    logger.log(
        logging.WARNING if left else logging.INFO,
        "data.file=%s: %d days used, %s to %s; validation from %s, test from %s; %sleft out: %s",
        prices.file.name,
        len(panel.dates),
        panel.dates[0],
        panel.dates[-1],
        dates[split.validation[0]],
        dates[split.test[0]],
        "" if panel.volume is not None else "there are no volumes, and so no features of them; ",
        left or "nothing",
    )


def _split(dates: NDArray[np.datetime64], validation: int, test: int) -> Split:
    """Rows before `validation`, from there to `test`, and the rest; none may be empty."""
    if not 0 < validation < test < len(dates):
        raise DataError(
            f"task.validation_start and task.test_start leave {validation} days for training, "
            f"{max(0, test - validation)} for validation and {len(dates) - test} for test; the "
            f"days with a full history run from {dates[0]} to {dates[-1]}: set both between them, "
            "in this order."
        )
    rows = np.arange(len(dates), dtype=np.int64)
    return Split(rows[:validation], rows[validation:test], rows[test:])


def _day(key: str, text: str) -> np.datetime64:
    try:
        return np.datetime64(date.fromisoformat(text), "D")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{key}={text}: it is not a day; write YYYY-MM-DD, such as 2015-01-01."
        ) from error
