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

PRICE_SOURCES = ("sp500", "skfolio", "csv", "quandl", "simulated")
# The paper's shares; simulated days have no calendar to split by.
SIMULATED_VALIDATION, SIMULATED_TEST = 0.1, 0.2
# What a user who names no day leaves as it is; the same in conf/task/portfolio.yaml.
_DAYS = ("2004-01-01", "2017-12-29", "2013-07-01", "2015-01-01")
_DEFAULT = Window(np.datetime64(_DAYS[0], "D"), np.datetime64(_DAYS[1], "D"))
_STARTS = (np.datetime64(_DAYS[2], "D"), np.datetime64(_DAYS[3], "D"))

logger = logging.getLogger(__name__)

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
    first_day: str = _DAYS[0],
    last_day: str = _DAYS[1],
    validation_start: str = _DAYS[2],
    test_start: str = _DAYS[3],
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
        first_day, last_day: days of the prices used, YYYY-MM-DD, both included; simulated prices
            have days of their own. A user's file is used whole where they are left as they are.
        validation_start, test_start: first target day of either part; simulated days are split
            70/10/20 instead, those of a user's file in the shares of the default window where both are
            left as they are.
        strict: sp500 only: draw from the tickers that agree with a second vendor.
        exclude: tickers never drawn.
        root, url, directory: where files are looked for, downloaded from and kept.
        file: the user's file, for source csv.
        num_days: simulated days.

    Raises:
        DataError: an unknown source, prices that cannot be had or trusted, too few tickers, or
            days that leave a part of the split empty.
    """
    window = Window(_day("task.first_day", first_day), _day("task.last_day", last_day))
    starts = (
        _day("task.validation_start", validation_start),
        _day("task.test_start", test_start),
    )
    source = "sp500" if source == "real" else source
    if source == "simulated":
        window = EVERY_DAY
    if source == "csv" and file is not None:
        window, starts = _of_file(Path(file), window, starts)
    prices = _open(source, window, strict, exclude, root, url, directory, file, num_days)
    assets = _draw(prices.tickers(), num_assets, exclude, rng, source)
    panel = price_panel(prices.frame(assets), window)
    report_jumps(panel)
    dates = target_dates(panel)
    if source == "simulated":
        validation = round((1 - SIMULATED_TEST - SIMULATED_VALIDATION) * len(dates))
        split = _split(dates, validation, round((1 - SIMULATED_TEST) * len(dates)))
    else:
        split = _split(dates, *(int(np.searchsorted(dates, start)) for start in starts))
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
            f"from; set task.num_assets to {len(universe)} or fewer, or take another source."
        )
    chosen = rng.choice(len(universe), size=num_assets, replace=False)
    return tuple(sorted(universe[index] for index in chosen))


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


def _of_file(
    file: Path, window: Window, starts: tuple[np.datetime64, np.datetime64]
) -> tuple[Window, tuple[np.datetime64, np.datetime64]]:
    """Window and split of a user's file; days that were not named follow its own, and it is said."""
    days = CsvPrices(file, EVERY_DAY).days
    first, last = days[0], days[-1]
    named = Window(
        first if window.first == _DEFAULT.first else window.first,
        last if window.last == _DEFAULT.last else window.last,
    )
    inside = days[(days >= named.first) & (days <= named.last)]
    if len(inside) and starts == _STARTS:
        whole = (_DEFAULT.last - _DEFAULT.first) / np.timedelta64(1, "D")
        shares = [(start - _DEFAULT.first) / np.timedelta64(1, "D") / whole for start in starts]
        starts = (inside[int(shares[0] * len(inside))], inside[int(shares[1] * len(inside))])
    logger.info(
        "data.file=%s: days %s to %s, validation from %s, test from %s (task.first_day, last_day, "
        "validation_start, test_start); %d of its %d days are left out",
        file.name,
        named.first,
        named.last,
        *starts,
        len(days) - len(inside),
        len(days),
    )
    return named, starts
