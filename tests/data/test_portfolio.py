"""portfolio_dataset: what a run of the portfolio task starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError
from diffusion_dfl.data.portfolio import PortfolioDataset, portfolio_dataset
from diffusion_dfl.data.prices import simulated_prices

WINDOW = {
    "first_day": "2010-01-01",
    "last_day": "2011-12-31",
    "validation_start": "2011-04-01",
    "test_start": "2011-07-01",
}


def simulated(seed: int = 0, **values: Any) -> PortfolioDataset:
    values = {"num_assets": 8, "num_days": 300, **values}
    return portfolio_dataset("simulated", np.random.default_rng(seed), **values)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve simulated tickers as a user's file, one ticker after the other."""
    frame = simulated_prices(450)
    frame = frame[frame.ticker < "S012"].sort_values(["ticker", "date"])
    path = tmp_path_factory.mktemp("prices") / "prices.csv"
    frame.to_csv(path, index=False, date_format="%Y-%m-%d")
    return path


def test_simulated_days_are_split_70_10_20() -> None:
    data = portfolio_dataset("simulated", np.random.default_rng(0))
    assert (data.name, data.source, data.price_source) == ("portfolio", "simulated", "simulated")
    assert data.contexts.shape == (1139, 28) and data.outcomes.shape == (1139, 50)
    assert [len(data.train), len(data.validation), len(data.test)] == [797, 114, 228]
    assert data.train.max() < data.validation.min() <= data.validation.max() < data.test.min()


def test_one_seed_has_one_set_of_assets_and_another_seed_another() -> None:
    one, again, other = simulated(0), simulated(0), simulated(1)
    assert one.assets == again.assets and np.array_equal(one.outcomes, again.outcomes)
    assert one.assets != other.assets and len(set(other.assets)) == 8


def test_assets_are_the_first_thing_drawn() -> None:
    universe = sorted(simulated_prices(1)["ticker"])
    chosen = np.random.default_rng(5).choice(100, size=8, replace=False)
    assert simulated(5).assets == tuple(sorted(universe[index] for index in chosen))


def test_outcomes_are_returns_of_the_named_asset_on_the_named_day() -> None:
    data = simulated(3)
    close = simulated_prices(300).pivot(index="date", columns="ticker", values="adj_close")
    expected = close.pct_change().loc[pd.DatetimeIndex(data.dates), list(data.assets)]
    assert data.outcomes == pytest.approx(expected.to_numpy(), abs=1e-12)


def test_a_file_by_ticker_and_the_same_file_by_day_give_the_same_data(
    file: Path, tmp_path: Path
) -> None:
    by_day = tmp_path / "by_day.csv"
    pd.read_csv(file).sort_values(["date", "ticker"]).to_csv(by_day, index=False)
    one, two = (
        portfolio_dataset("csv", np.random.default_rng(0), num_assets=5, file=path, **WINDOW)
        for path in (file, by_day)
    )
    assert one.assets == two.assets
    assert np.array_equal(one.contexts, two.contexts)
    assert np.array_equal(one.outcomes, two.outcomes)


def test_the_parts_begin_on_the_days_asked_for(file: Path) -> None:
    data = portfolio_dataset("csv", np.random.default_rng(0), num_assets=5, file=file, **WINDOW)
    assert (data.source, data.price_source) == ("real", "csv")
    assert str(data.dates[data.validation[0]]) == "2011-04-01"
    assert str(data.dates[data.test[0]]) == "2011-07-01"
    assert str(data.dates[-1]) == "2011-09-22"
    assert len(data.train) + len(data.validation) + len(data.test) == len(data.dates)


def test_a_file_is_used_whole_and_split_by_shares(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        data = portfolio_dataset("csv", np.random.default_rng(0), num_assets=5, file=file)
    whole = pd.read_csv(file)["date"]
    assert str(data.dates[-1]) == whole.max()
    assert len(data.dates) == whole.nunique() - 61
    assert [len(data.train), len(data.validation), len(data.test)] == [272, 39, 78]
    (told,) = [record for record in caplog.records if "data.file" in record.message]
    assert told.levelname == "INFO" and told.message == (
        f"data.file=prices.csv: 450 days used, {whole.min()} to {whole.max()}; validation from "
        f"{data.dates[272]}, test from {data.dates[311]}; left out: nothing"
    )


def test_prices_without_volumes_are_said_to_be(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bare.csv"
    pd.read_csv(file).drop(columns="volume").to_csv(path, index=False)
    with caplog.at_level("INFO"):
        data = portfolio_dataset("csv", np.random.default_rng(0), num_assets=5, file=path)
    assert "; there are no volumes, and so no features of them; left out: nothing" in caplog.text
    assert not any("volume" in name for name in data.feature_names)


def test_days_of_today_are_no_days_outside(tmp_path: Path) -> None:
    frame = simulated_prices(200)
    frame = frame[frame.ticker < "S004"].assign(date=frame["date"] + pd.Timedelta(days=5000))
    path = tmp_path / "late.csv"
    frame.to_csv(path, index=False, date_format="%Y-%m-%d")
    data = portfolio_dataset("csv", np.random.default_rng(0), num_assets=3, file=path)
    assert str(data.dates[0]) > "2023" and len(data.dates) == 139


@pytest.mark.parametrize(
    ("named", "sizes"),
    [
        ({"validation_start": "2011-04-01"}, [264, 42, 83]),
        ({"test_start": "2011-07-01"}, [288, 41, 60]),
        ({"first_day": "2010-06-01"}, [197, 29, 56]),
        ({"last_day": "2011-06-30"}, [230, 33, 66]),
    ],
)
def test_what_is_not_named_follows_the_file(
    file: Path, named: dict[str, str], sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    data = portfolio_dataset("csv", np.random.default_rng(0), num_assets=5, file=file, **named)
    assert [len(data.train), len(data.validation), len(data.test)] == sizes
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    cut = sorted(named)[0] in ("first_day", "last_day")
    assert any("days outside of task.first_day" in line for line in told) == cut


def test_excluded_tickers_are_never_drawn(file: Path) -> None:
    kept = [f"S{number:03d}" for number in range(2, 12)]
    data = portfolio_dataset(
        "csv",
        np.random.default_rng(0),
        num_assets=10,
        exclude=["S000", "S001"],
        file=file,
        **WINDOW,
    )
    assert data.assets == tuple(kept)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_assets": 13},
            r"task.num_assets=13: source csv has 12 tickers.*add task.num_assets=12, or fewer",
        ),
        ({"num_assets": 12, "exclude": ["S000"]}, r"has 11 tickers"),
        ({"num_assets": 1}, r"task.num_assets=1"),
        ({"exclude": ["XYZ"]}, r"task.exclude: source csv has no ticker XYZ"),
        ({"file": None}, r"data.file=FILE"),
        ({"test_start": "2012-01-01"}, r"0 for test"),
        ({"validation_start": "2011-07-01"}, r"0 for validation"),
        ({"validation_start": "2009-01-01"}, r"0 days for training"),
        ({"test_start": "1.1.2015"}, r"task.test_start=1.1.2015: .*YYYY-MM-DD"),
        ({"first_day": "2011-07-01"}, r"task.first_day"),
        ({"first_day": "2020-01-01"}, r"task.first_day=2020-01-01"),
    ],
)
def test_values_that_cannot_work_name_their_key(
    file: Path, values: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"num_assets": 5, "file": file, **WINDOW, **values}
    with pytest.raises(DataError, match=message):
        portfolio_dataset("csv", np.random.default_rng(0), **given)


def test_unknown_source_is_refused() -> None:
    with pytest.raises(DataError, match=r"data=yahoo: .*sp500, skfolio, csv, quandl, simulated"):
        portfolio_dataset("yahoo", np.random.default_rng(0))


def test_real_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root="):
        portfolio_dataset("real", np.random.default_rng(0), root=tmp_path)


def test_real_set(real_root: Path) -> None:
    data = portfolio_dataset("real", np.random.default_rng(0), root=real_root)
    assert (data.source, data.price_source) == ("real", "sp500")
    assert data.contexts.shape == (3463, 28) and data.outcomes.shape == (3463, 50)
    assert [len(data.train), len(data.validation), len(data.test)] == [2328, 380, 755]
    first = [str(data.dates[rows[0]]) for rows in (data.train, data.validation, data.test)]
    assert first == ["2004-03-31", "2013-07-01", "2015-01-02"]
    assert str(data.dates[-1]) == "2017-12-29"
    assert 0.015 < data.outcomes.std() < 0.03
