"""A price table that cannot be trusted is refused by name; a jump is said aloud and kept."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError
from diffusion_dfl.data.prices import Window, find_jumps, price_panel, report_jumps

WINDOW = Window(np.datetime64("2010-01-01", "D"), np.datetime64("2010-12-31", "D"))
DAYS = pd.bdate_range("2010-01-04", periods=8)


def tidy(**prices: list[float]) -> pd.DataFrame:
    """One ticker after the other, as a file usually has them."""
    parts = [
        pd.DataFrame({"date": DAYS[: len(p)], "ticker": t, "adj_close": p, "volume": 100.0})
        for t, p in prices.items()
    ]
    return pd.concat(parts, ignore_index=True)


def steady(size: int = 8) -> list[float]:
    return [10.0 + 0.1 * day for day in range(size)]


def test_ticker_after_ticker_and_day_after_day_give_the_same_table() -> None:
    frame = tidy(B=[20.0, 21.0, 22.0], A=[10.0, 11.0, 12.0])
    by_day = frame.sort_values(["date", "ticker"], ignore_index=True)
    for order in (frame, by_day):
        panel = price_panel(order, WINDOW)
        assert panel.tickers == ("A", "B")
        assert panel.close.tolist() == [[10.0, 20.0], [11.0, 21.0], [12.0, 22.0]]
        assert panel.returns[0] == pytest.approx([0.1, 0.05])
        assert panel.dates.tolist() == [day.date() for day in DAYS[:3]]


def test_volumes_are_left_out_where_there_are_none() -> None:
    assert price_panel(tidy(A=steady()).assign(volume=np.nan), WINDOW).volume is None
    volume = price_panel(tidy(A=steady()), WINDOW).volume
    assert volume is not None and volume.shape == (8, 1)


def test_what_lies_outside_the_window_is_not_looked_at() -> None:
    window = Window(np.datetime64("2010-01-06", "D"), np.datetime64("2010-01-08", "D"))
    panel = price_panel(tidy(A=[-1.0, 0.0, 3.0, 4.0, 5.0, -2.0]), window)
    assert panel.close[:, 0].tolist() == [3.0, 4.0, 5.0]


@pytest.mark.parametrize("price", [0.0, -3.0, np.nan, np.inf])
def test_a_price_must_be_positive_and_finite(price: float) -> None:
    bad = [*steady(3), price, *steady(4)]
    with pytest.raises(DataError, match=r"adj_close of B on 2010-01-07.*task.exclude=\[B\]"):
        price_panel(tidy(A=steady(), B=bad), WINDOW)


def test_a_missing_day_names_ticker_day_and_mend() -> None:
    frame = tidy(A=steady(), B=steady())
    frame = frame[~((frame.ticker == "B") & (frame.date == DAYS[3]))]
    with pytest.raises(DataError, match=r"B has no row for 2010-01-07.*task.exclude=\[B\]"):
        price_panel(frame, WINDOW)


def test_a_ticker_listed_late_is_a_gap_too() -> None:
    with pytest.raises(DataError, match=r"B has no row for 2010-01-11.*3 of its 8 days"):
        price_panel(tidy(A=steady(), B=steady(5)), WINDOW)


def test_a_month_without_any_ticker_is_a_gap() -> None:
    frame = tidy(A=steady())
    frame.loc[4:, "date"] += pd.Timedelta(days=28)
    with pytest.raises(DataError, match=r"between 2010-01-07 and 2010-02-05"):
        price_panel(frame, WINDOW)


@pytest.mark.parametrize("where", [1, 8])
def test_two_rows_for_a_day_are_refused(where: int) -> None:
    frame = tidy(A=steady())
    frame = pd.concat([frame.iloc[:where], frame.iloc[[0]], frame.iloc[where:]])
    with pytest.raises(DataError, match=r"A has two rows for 2010-01-04"):
        price_panel(frame, WINDOW)


def test_dates_out_of_order_are_refused_not_sorted() -> None:
    frame = tidy(A=steady(), B=steady())
    rows = list(range(16))
    rows[10], rows[11] = 11, 10
    with pytest.raises(DataError, match=r"out of order at B 2010-01-06"):
        price_panel(frame.iloc[rows], WINDOW)


@pytest.mark.parametrize("volume", [-1.0, np.nan, np.inf])
def test_a_bad_volume_is_named(volume: float) -> None:
    frame = tidy(A=steady())
    frame.loc[2, "volume"] = volume
    with pytest.raises(DataError, match=r"volume of A on 2010-01-06"):
        price_panel(frame, WINDOW)


def test_a_window_without_days_names_its_keys() -> None:
    window = Window(np.datetime64("2012-01-01", "D"), np.datetime64("2012-12-31", "D"))
    with pytest.raises(DataError, match=r"task.first_day=2012-01-01.*task.last_day"):
        price_panel(tidy(A=steady()), window)


def test_jumps_are_reported_with_ticker_day_and_return_and_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    frame = tidy(A=[10.0, 10.0, 16.0, 16.0], B=[30.0, 30.3, 15.1, 15.0], C=steady(4))
    panel = price_panel(frame, WINDOW)
    with caplog.at_level(logging.WARNING):
        jumps = report_jumps(panel)
    assert "A 2010-01-06 +60.0%" in caplog.text
    assert "B 2010-01-06 -50.2% (looks like an unadjusted split, 2:1)" in caplog.text
    assert "C" not in {jump.ticker for jump in jumps}
    assert panel.returns[1, 0] == pytest.approx(0.6)


def test_a_split_on_a_good_day_is_caught_though_it_falls_by_less_than_half() -> None:
    (jump,) = find_jumps(price_panel(tidy(A=[100.0, 51.0, 51.0]), WINDOW))
    assert (jump.ticker, str(jump.date), jump.split) == ("A", "2010-01-05", 2)
    assert jump.change == pytest.approx(-0.49)


@pytest.mark.parametrize("factor", [2, 3, 7, 10, 20, 50])
def test_every_usual_split_and_its_reverse_is_recognised(factor: int) -> None:
    low, high = 4.0, 4.0 * factor * 1.02
    split, reverse = find_jumps(price_panel(tidy(A=[high, low, low, high]), WINDOW))
    assert (split.split, reverse.split) == (factor, factor)
    assert split.change < 0 < reverse.change


@pytest.mark.parametrize("prices", [[10.0, 7.0], [10.0, 14.9], [10.0, 5.5]])
def test_a_bad_day_is_no_jump(prices: list[float]) -> None:
    assert find_jumps(price_panel(tidy(A=prices), WINDOW)) == []


def test_quiet_prices_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert report_jumps(price_panel(tidy(A=steady()), WINDOW)) == []
    assert caplog.text == ""
