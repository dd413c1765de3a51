"""The restaurant's demands: pinned files, contexts known the day before, the study's days."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError, restaurant_dataset
from diffusion_dfl.data import restaurant as module
from diffusion_dfl.data.restaurant import (
    ITEMS,
    MONTHS,
    WEEKDAYS,
    YAZ_FILES,
    download_yaz,
    read_yaz,
    restaurant_features,
)
from diffusion_dfl.suite.commands import fetch


def frames(days: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Files of another restaurant in the form of YAZ's."""
    dates = pd.date_range("2013-10-04", periods=days, freq="D")
    rng = np.random.default_rng(0)
    day = pd.DataFrame(
        {
            "date": dates.strftime("%Y-%m-%d"),
            "weekday": [WEEKDAYS[d] for d in dates.day_of_week],
            "month": [MONTHS[m - 1] for m in dates.month],
            "year": dates.year,
            "is_holiday": 0,
            "is_closed": 0,
            "weekend": (dates.day_of_week > 4).astype(int),
            **{name: rng.normal(size=days) for name in module.SPECIAL[2:]},
        }
    )
    return day, pd.DataFrame(rng.poisson(9.0, (days, 7)), columns=list(ITEMS))


def written(folder: Path, day: pd.DataFrame, demand: pd.DataFrame) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in YAZ_FILES]
    for path, table in zip(paths, (day, demand), strict=True):
        table.to_csv(path, index=False)
    return paths


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of the same form, pinned in place of YAZ's."""
    for path in written(tmp_path / "own/yaz", *frames()):
        monkeypatch.setitem(YAZ_FILES, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    return tmp_path / "own"


def test_the_days_are_those_of_the_published_study(real_root: Path) -> None:
    data = restaurant_dataset("real", np.random.default_rng(0), root=real_root)
    assert data.contexts.shape == (738, 7 + 12 + 1 + 7 * 27 + 7)
    assert data.outcomes.shape == (738, 7)
    assert (len(data.known), len(data.test)) == (553, 185)
    ends = [str(data.dates[row]) for row in (0, data.test[0], -1)]
    assert ends == ["2013-10-31", "2015-05-07", "2015-11-07"]
    assert len(data.validation) == 8 * 14 and (data.block_rows, data.gap_rows) == (14, 1)
    assert data.outcomes.max() == 93


def test_published_lags_know_the_demand_of_the_target_day_and_ours_do_not() -> None:
    """The study's own file says so: 2013-10-31 has calamari_sum_7 = 35 = 4 + the six days before."""
    day, demand = frames()
    days, seen = day.set_index(pd.to_datetime(day["date"])), demand.astype(float)
    seen.index = days.index
    moved = seen.copy()
    moved.iloc[-1] += 100.0
    changed = {}
    for published in (False, True):
        before, after = (
            restaurant_features(days, one, "lag", published).iloc[-1] for one in (seen, moved)
        )
        changed[published] = set(before.index[before != after])
    assert not changed[False]
    assert {f"{item}_max_7" for item in ITEMS} <= changed[True]


def test_the_study_has_its_own_values_with_published_lags(real_root: Path) -> None:
    """First row of calamari in the study's prepared file, lag statistics of 7 and 28 days."""
    data = restaurant_dataset(
        "real", np.random.default_rng(0), features="lag", published_lags=True, root=real_root
    )
    expected = {
        "calamari_sum_7": 35.0,
        "calamari_median_7": 5.0,
        "calamari_std_7": 1.3093073414159542,
        "calamari_variance_28": 4.044642857142857,
        "calamari_rms_28": 5.622023021754968,
        "calamari_absmax_14": 10.0,
        "calamari_min_28": 1.0,
    }
    row = dict(zip(data.feature_names, data.contexts[0], strict=True))
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-12)


def test_statistics_are_those_of_the_days_before(own_files: Path) -> None:
    data = restaurant_dataset("real", np.random.default_rng(0), root=own_files, **SMALL)
    _, demand = frames()
    for row, window in ((0, 7), (5, 14), (20, 28)):
        target = row + 27
        past = demand["lamb"].to_numpy(float)[target - window : target]
        expected = {
            "sum": past.sum(),
            "median": np.median(past),
            "mean": past.mean(),
            "std": past.std(),
            "variance": past.var(),
            "rms": np.sqrt((past**2).mean()),
            "max": past.max(),
            "absmax": past.max(),
            "min": past.min(),
        }
        for name, value in expected.items():
            column = data.feature_names.index(f"lamb_{name}_{window}")
            assert data.contexts[row, column] == pytest.approx(value, rel=1e-12), (name, window)
    assert sum(name.startswith("lamb_") for name in data.feature_names) == 27


SMALL = {"validation_fraction": 0.5, "block_weeks": 1}


@pytest.mark.parametrize(("features", "count"), [("calendar", 20), ("lag", 209), ("special", 216)])
def test_a_set_of_features_holds_the_smaller_ones(
    own_files: Path, features: str, count: int
) -> None:
    data = restaurant_dataset(
        "real",
        np.random.default_rng(0),
        features=features,  # type: ignore[arg-type]
        root=own_files,
        **SMALL,
    )
    assert data.contexts.shape[1] == count
    assert data.feature_names[:2] == ("weekday_MON", "weekday_TUE")
    assert np.array_equal(data.contexts[:, :19].sum(1), np.full(33, 2.0))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("features", "some", r"task\.features=some: use one of calendar, lag, special\."),
        ("validation_fraction", 2.0, r"task\.validation_fraction=2\.0"),
    ],
)
def test_a_bad_value_is_refused_by_its_key(
    own_files: Path, key: str, value: object, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        restaurant_dataset("real", np.random.default_rng(0), root=own_files, **{key: value})  # type: ignore[arg-type]


def test_another_source_is_refused() -> None:
    with pytest.raises(DataError, match=r"data=simulated: task=restaurant has real demand only"):
        restaurant_dataset("simulated", np.random.default_rng(0))


def test_files_with_other_columns_are_refused_in_a_line_that_names_them(tmp_path: Path) -> None:
    day, demand = frames()
    paths = written(tmp_path, day, demand.rename(columns={"lamb": "goat"}))
    with pytest.raises(DataError) as caught:
        read_yaz(*paths)
    told = str(caught.value)
    assert told.startswith(f"{paths[1]}: it lacks lamb and has goat, which is none of its columns;")
    assert "\n" not in told
    paths = written(tmp_path, day.drop(columns=["rain", "year"]), demand)
    with pytest.raises(DataError, match=r"yaz_data\.csv: it lacks year, rain; take the"):
        read_yaz(*paths)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda day, demand: (day.drop(index=9), demand.drop(index=9)),
            "2013-10-12 is followed by",
        ),
        (lambda day, demand: (day, demand[:-1]), "60 days and .* 59; each day is one row"),
        (lambda day, demand: (day, demand - 30), r"calamari is .* on 2013-10-04; a demand must be"),
    ],
)
def test_days_and_demands_that_cannot_be_are_refused(tmp_path: Path, change, told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=told):
        read_yaz(*written(tmp_path, *change(*frames())))


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "yaz", *frames())
    with pytest.raises(DataError, match=r"yaz/yaz_data\.csv is not the pinned file"):
        restaurant_dataset("real", np.random.default_rng(0), root=tmp_path)


def test_downloads_go_to_a_folder_of_their_own(own_files: Path, tmp_path: Path) -> None:
    url = (own_files / "yaz").as_uri()
    paths = download_yaz(tmp_path / "data", url)
    assert paths == [tmp_path / "data/yaz" / name for name in YAZ_FILES]
    data = restaurant_dataset(
        "real", np.random.default_rng(0), directory=tmp_path / "data", url="http://unused", **SMALL
    )
    assert data.outcomes.shape == (33, 7)


def test_the_command_fetches_them_when_asked(
    own_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fetch, "PJM_FILES", {})
    url = (own_files / "yaz").as_uri()
    monkeypatch.setattr(fetch, "download_yaz", lambda directory: download_yaz(directory, url))
    assert fetch.main(["--directory", str(tmp_path), "--restaurant"]) == 0
    printed = capsys.readouterr().out
    assert all(f"yaz/{name}: sha256 {digest} ok" in printed for name, digest in YAZ_FILES.items())
