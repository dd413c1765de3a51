"""Each source hands over the same form, or one error that names the key and the mend."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError
from diffusion_dfl.data.download import ENVIRONMENT_VARIABLE
from diffusion_dfl.data.prices import (
    EVERY_DAY,
    CsvPrices,
    SkfolioPrices,
    Sp500Prices,
    Window,
    price_panel,
    sources,
    sp500_list,
)
from diffusion_dfl.data.prices.sources import SP500_PARQUET, csv_name

HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"
# A two-for-one split on 6 January: the vendor's volumes before it are in old shares.
ROWS = [
    "2010-01-04,1,1,1,20.0,9.87654321,100,0.0,1.0",
    "2010-01-05,1,1,1,21.0,10.5,300,0.0,1.0",
    "2010-01-06,1,1,1,10.6,10.6,800,0.0,2.0",
    "2010-01-07,1,1,1,10.7,10.7,900,0.0,1.0",
]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two CSVs, and a list of tickers that pins them."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    text = HEADER + "\n".join(ROWS) + "\n"
    table = sp500_list().iloc[:3].copy()
    for index, ticker in zip(table.index[:2], table["ticker"], strict=False):
        (folder / csv_name(ticker)).write_text(text)
        table.loc[index, "csv_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    monkeypatch.setattr(sources, "sp500_list", lambda: table)
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class TestSp500:
    def test_list_has_392_tickers_and_284_that_agree_with_a_second_vendor(self) -> None:
        table = sp500_list()
        assert len(table) == 392 == table["ticker"].nunique()
        assert len(Sp500Prices(strict=False).tickers()) == 392
        assert len(Sp500Prices(strict=True).tickers()) == 284
        assert table["csv_sha256"].str.fullmatch("[0-9a-f]{64}").all()

    @pytest.mark.parametrize("road", ["root", "environment", "download"])
    def test_csvs_come_from_a_folder_or_the_network(
        self, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, road: str
    ) -> None:
        own = tmp_path / "data"
        if road == "environment":
            monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(mirror))
        root = mirror if road == "root" else None
        source = Sp500Prices(root, mirror.as_uri(), own, strict=False)
        chosen = source.tickers()[:2]
        panel = price_panel(source.frame(chosen), EVERY_DAY)
        assert panel.tickers == chosen
        assert panel.close[:, 0].tolist() == [9.876543, 10.5, 10.6, 10.7]
        assert panel.volume is not None
        assert panel.volume[:, 1].tolist() == [200.0, 600.0, 800.0, 900.0]
        assert len(list(own.rglob("*.csv"))) == (2 if road == "download" else 0)

    def test_only_the_tickers_asked_for_are_downloaded(self, mirror: Path, tmp_path: Path) -> None:
        source = Sp500Prices(None, mirror.as_uri(), tmp_path / "data", strict=False)
        source.frame(source.tickers()[:1])
        assert [path.name for path in (tmp_path / "data").rglob("*.csv")] == [
            csv_name(source.tickers()[0])
        ]

    def test_a_damaged_csv_is_refused(self, mirror: Path) -> None:
        source = Sp500Prices(mirror, strict=False)
        path = mirror / csv_name(source.tickers()[1])
        path.write_text(path.read_text().replace("10.7", "11.7"))
        with pytest.raises(DataError, match=r"data.root=.*is not the pinned file"):
            source.frame(source.tickers()[:2])

    def test_an_empty_folder_names_the_parquet(self, tmp_path: Path) -> None:
        source = Sp500Prices(tmp_path)
        with pytest.raises(DataError, match=rf"data.root=.*no file {SP500_PARQUET}"):
            source.frame(source.tickers()[:2])

    def test_a_foreign_parquet_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / SP500_PARQUET).write_bytes(b"something else")
        for source in (Sp500Prices(tmp_path), Sp500Prices(None, directory=tmp_path)):
            with pytest.raises(DataError, match=r"expected sha256 4cc5380a"):
                source.frame(source.tickers()[:2])

    def test_no_network_is_one_clear_error(self, tmp_path: Path) -> None:
        source = Sp500Prices(None, (tmp_path / "nowhere").as_uri(), tmp_path / "data")
        with pytest.raises(DataError, match=r"data.url=.*DA-A"):
            source.frame(source.tickers()[:2])

    def test_real_parquet(self, real_root: Path) -> None:
        source = Sp500Prices(real_root, strict=False)
        panel = price_panel(source.frame(["AAPL", "BRK.B", "GE"]), EVERY_DAY)
        assert panel.close.shape == (3524, 3)
        assert (str(panel.dates[0]), str(panel.dates[-1])) == ("2004-01-02", "2017-12-29")
        day = int(np.searchsorted(panel.dates, np.datetime64("2014-06-09")))
        # The seven-for-one split of that day is in neither price nor volume.
        assert panel.close[day, 0] == 21.10858
        assert abs(panel.returns[day - 1, 0]) < 0.02
        assert panel.volume is not None
        assert 0.5 < panel.volume[day, 0] / panel.volume[day - 1, 0] < 2.0


class TestCsv:
    HEAD = "date,ticker,adj_close,volume\n"

    def frame(self, path: Path, text: str) -> pd.DataFrame:
        source = CsvPrices(write(path, text), EVERY_DAY)
        return source.frame(source.tickers())

    def test_a_good_file_is_read_whatever_its_tickers_are_called(self, tmp_path: Path) -> None:
        rows = "".join(
            f"2020-01-0{day},{ticker},{10 + day},{100 * day}\n"
            for ticker in ("NA", "TRUE", "1")
            for day in (2, 3)
        )
        panel = price_panel(self.frame(tmp_path / "p.csv", self.HEAD + rows), EVERY_DAY)
        assert panel.tickers == ("1", "NA", "TRUE")
        assert panel.close[:, 0].tolist() == [12.0, 13.0]
        assert panel.volume is not None and panel.volume[1].tolist() == [300.0] * 3

    @pytest.mark.parametrize("volume", ["date,ticker,adj_close\n", HEAD])
    def test_volume_may_be_missing_or_empty(self, tmp_path: Path, volume: str) -> None:
        end = "," if "volume" in volume else ""
        rows = "".join(f"2020-01-0{day},A,{day}{end}\n" for day in (2, 3))
        panel = price_panel(self.frame(tmp_path / "p.csv", volume + rows), EVERY_DAY)
        assert panel.volume is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("date,ticker,price\n", r"no column adj_close \(found date, ticker, price\)"),
            (HEAD + "2020-01-02,A,1,1\n03.01.2020,A,2,2\n", r"line 3 has the date '03.01.2020'"),
            (HEAD + "2020-01-02,A,twelve,1\n", r"line 2 has adj_close 'twelve'"),
            (HEAD + "2020-01-02,A,12,many\n", r"line 2 has volume 'many'"),
            (HEAD + "2020-01-02,A,,1\n", r"adj_close of A on 2020-01-02 is nan"),
            (HEAD + "2020-01-02,A,0,1\n", r"adj_close of A on 2020-01-02 is 0.0"),
            (HEAD + "2020-01-03,A,1,1\n2020-01-02,A,1,1\n", r"out of order at A 2020-01-02"),
            (HEAD + "2020-01-02,A,1,1\n2020-01-02,A,1,1\n", r"A has two rows"),
            (HEAD, r"no row below the header"),
            (HEAD + "2020-01-02,A,1_2,1\n", r"line 2 has adj_close '1_2'"),
            ("", r"cannot be read"),
        ],
    )
    def test_a_bad_file_names_the_line_or_the_ticker(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        with pytest.raises(DataError, match=message):
            self.frame(tmp_path / "p.csv", text)

    def test_all_tickers_are_checked_not_only_those_asked_for(self, tmp_path: Path) -> None:
        rows = "2020-01-02,A,1,1\n2020-01-03,A,1,1\n2020-01-02,B,1,1\n"
        path = write(tmp_path / "p.csv", self.HEAD + rows)
        with pytest.raises(DataError, match=r"B has no row for 2020-01-03.*task.exclude=\[B\]"):
            CsvPrices(path, EVERY_DAY).tickers()
        assert CsvPrices(path, EVERY_DAY, ("B",)).tickers() == ("A", "B")

    def test_a_ticker_without_a_day_in_the_window_is_not_there_to_be_drawn(
        self, tmp_path: Path
    ) -> None:
        rows = "2020-01-02,A,1,1\n2020-01-03,A,1,1\n2020-01-03,B,1,1\n2020-01-03,C,1,1\n"
        path = write(tmp_path / "p.csv", self.HEAD + rows)
        day = np.datetime64("2020-01-02", "D")
        prices = CsvPrices(path, Window(day, day), ("C",))
        assert prices.tickers() == ("A", "C")  # C is known, to be excluded
        left = "3 rows, 1 days outside of task.first_day and task.last_day, 2 tickers (B, C)"
        assert prices.left_out() == left

    def test_a_missing_file_names_the_key(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"data.file=.*there is no such file"):
            CsvPrices(tmp_path / "none.csv", EVERY_DAY).tickers()


class TestSkfolio:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A package of that name, in front of one that may be installed."""
        folder = tmp_path / "skfolio" / "datasets" / "data"
        folder.mkdir(parents=True)
        # Importing it would fail: only its file is wanted.
        (tmp_path / "skfolio" / "__init__.py").write_text("raise ImportError\n")
        monkeypatch.syspath_prepend(tmp_path)
        return folder

    def test_the_shipped_table_becomes_tidy_rows_without_volumes(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = gzip.compress(b"Date,MSFT,AAPL\n2010-01-04,1.5,2.5\n2010-01-05,1.6,2.6\n")
        (package / "sp500_dataset.csv.gz").write_bytes(content)
        monkeypatch.setattr(sources, "SKFOLIO_SHA256", hashlib.sha256(content).hexdigest())
        source = SkfolioPrices()
        assert source.tickers() == ("AAPL", "MSFT")
        panel = price_panel(source.frame(source.tickers()), EVERY_DAY)
        assert panel.close.tolist() == [[2.5, 1.5], [2.6, 1.6]] and panel.volume is None

    def test_another_version_of_the_table_is_refused(self, package: Path) -> None:
        (package / "sp500_dataset.csv.gz").write_bytes(b"other")
        with pytest.raises(DataError, match=r"not the pinned file.*skfolio==1.12.2"):
            SkfolioPrices().tickers()

    def test_a_package_without_the_table_is_refused(self, package: Path) -> None:
        with pytest.raises(DataError, match=r"has no file sp500_dataset.csv.gz"):
            SkfolioPrices().tickers()

    def test_a_missing_package_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(DataError, match=r"pip install --no-deps skfolio==1.12.2"):
            SkfolioPrices().tickers()

    def test_real_package(self) -> None:
        if importlib.util.find_spec("skfolio") is None:
            pytest.skip("skfolio is not installed")
        source = SkfolioPrices()
        panel = price_panel(source.frame(source.tickers()), EVERY_DAY)
        assert panel.close.shape == (8313, 20) and panel.volume is None
        assert panel.close[0, panel.tickers.index("AAPL")] == 0.264
