"""A user's own files: hourly loads, prices of other years, dates over a change of the clock."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import diffusion_dfl as ddfl
from diffusion_dfl.config.arguments import normalise
from diffusion_dfl.config.compose import compose_config, identify
from diffusion_dfl.data.contexts import _number
from diffusion_dfl.data.frames import frame_dataset
from diffusion_dfl.training.execution import check_parts, make_task


def loads(folder: Path, hours: pd.DatetimeIndex | None = None, name: str = "load.csv") -> Path:
    if hours is None:
        hours = pd.date_range("2018-01-01", "2018-06-30 23:00", freq="h")
    values = 2 + np.sin(2 * np.pi * hours.hour / 24) + 1e-3 * np.arange(len(hours)) / len(hours)
    path = folder / name
    pd.DataFrame({"time": hours.strftime("%Y-%m-%d %H:%M"), "load": values}).to_csv(
        path, index=False
    )
    return path


def of_loads(path: Path, *words: str) -> ddfl.Task:
    return make_task(compose_config(["task=power", "data=csv", f'data.file="{path}"', *words]))


def test_own_loads_make_the_days_of_the_task(tmp_path: Path) -> None:
    task = of_loads(loads(tmp_path))
    # Of 181 days the first 28 are history.
    assert task.dataset.outcomes.shape == (181 - 28, 24)
    assert task.dataset.source == "real"
    hour = np.arange(24)
    np.testing.assert_allclose(
        task.dataset.outcomes[0], 2 + np.sin(2 * np.pi * hour / 24), atol=2e-3
    )
    assert len(task.dataset.test) == round(0.2 * 153)
    assert task.dataset.test.min() > task.dataset.validation.max()


def test_an_hour_that_the_clock_skips_or_shows_twice_is_that_of_its_neighbours(
    tmp_path: Path,
) -> None:
    hours = pd.date_range("2018-01-01", "2018-12-31 23:00", freq="h")
    skipped = pd.Timestamp("2018-03-11 02:00")
    twice = pd.Timestamp("2018-11-04 01:00")
    odd = hours.drop(skipped).append(pd.DatetimeIndex([twice])).sort_values()
    task = of_loads(loads(tmp_path, odd))
    whole = of_loads(loads(tmp_path, hours, "whole.csv"))
    np.testing.assert_allclose(task.dataset.outcomes, whole.dataset.outcomes, atol=0.2)


def test_an_offset_from_utc_is_left_out_of_the_clock(tmp_path: Path) -> None:
    plain = loads(tmp_path)
    table = pd.read_csv(plain)
    table["time"] = table["time"].str.replace(" ", "T") + ":00+02:00"
    table.to_csv(tmp_path / "offset.csv", index=False)
    one, other = of_loads(plain), of_loads(tmp_path / "offset.csv")
    np.testing.assert_array_equal(one.dataset.outcomes, other.dataset.outcomes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.rename(columns={"load": "mw"}), "no column load, but time, mw"),
        (lambda t: t.assign(load="1_000"), "load is '1_000' in line 2"),
        (lambda t: t.assign(load=-1.0), "load is '-1.0' in line 2"),
        (lambda t: t.assign(time="soon"), "time is 'soon' in line 2"),
        (lambda t: t.assign(time=t["time"].str.replace(":00", ":30")), "must be a whole hour"),
        (lambda t: t.drop(index=range(500, 560)), "missing|consecutive"),
        (lambda t: pd.concat([t, t, t]), "comes 3 times"),
        (lambda t: t[:0], "no row"),
    ],
)
def test_loads_that_cannot_be_used_are_named(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = loads(tmp_path)
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(ddfl.DataError, match=message):
        of_loads(path)


def test_another_content_is_another_run(tmp_path: Path) -> None:
    path = loads(tmp_path)
    words = ["task=power", "data=csv", f"data.file={path}"]
    before = identify(compose_config(words))
    path.write_text(path.read_text().replace("2018-01-01 00:00,2.0", "2018-01-01 00:00,2.5"))
    after = identify(compose_config(words))
    assert before.config_hash != after.config_hash


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=power", "data.file=nowhere.csv"], "data=real does not read it; add data=csv"),
        (["task=portfolio", "data.file=nowhere.csv"], "data=sp500 does not read it; add data=csv"),
        (["task=power", "data=simulated", "data.file=a.csv"], "data=simulated does not read it"),
        (["task=portfolio", "data=skfolio", "data.file=a.csv"], "data=skfolio does not read it"),
        (["task=inventory", "data=simulated", "data.file=a.csv"], "does not read it"),
        (["task=portfolio", "data=skfolio", "data.root=a"], r"data.root=a.*does not read"),
        (["task=portfolio", "data=csv", "data.file=a.csv", "data.url=https://x"], "data.url="),
    ],
)
def test_a_place_that_the_source_does_not_read_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ddfl.UserError, match=message):
        check_parts(compose_config(words))


def test_a_folder_for_the_other_tasks_of_a_sweep_is_passed_over() -> None:
    check_parts(compose_config(["task=inventory", "data.root=folder"]))


def test_loads_without_a_file_are_asked_for() -> None:
    with pytest.raises(ddfl.UserError, match=r"data\.file=PATH.*time.*load"):
        make_task(compose_config(["task=power", "data=csv"]))


def prices(folder: Path, first: str, last: str) -> Path:
    days = pd.bdate_range(first, last)
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "date": days.strftime("%Y-%m-%d"),
                "ticker": ticker,
                "adj_close": 50 * np.exp(np.cumsum(0.01 * rng.standard_normal(len(days)))),
                "volume": 1000,
            }
        )
        for ticker in "ABCD"
    ]
    path = folder / "prices (1).csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


def test_prices_of_other_years_are_used_whole_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = prices(tmp_path, "2012-01-02", "2019-12-31")
    words = ["task=portfolio", "data=csv", f'data.file="{path}"', "task.num_assets=3"]
    with caplog.at_level("INFO"):
        data = make_task(compose_config(words)).dataset
    assert str(data.dates.max()) == "2019-12-31"
    assert str(data.dates.min()) < "2012-05-01"
    share = len(data.test) / len(data.dates)
    assert share == pytest.approx(755 / 3463, abs=0.02)
    assert "days 2012-01-02 to 2019-12-31" in caplog.text and "0 of its 2087 days" in caplog.text
    caplog.clear()
    named = [*words, "task.first_day='2013-01-01'", "task.last_day='2018-12-31'"]
    with caplog.at_level("INFO"):
        data = make_task(compose_config(named)).dataset
    assert str(data.dates.max()) == "2018-12-31"
    assert "days 2013-01-01 to 2018-12-31" in caplog.text and "0 of its" not in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "prices (1).csv",
        "a=b.csv",
        "a,b.csv",
        "a#b.csv",
        "it's.csv",
        "a[1].csv",
        "a{b}.csv",
        'a"b.csv',
        "a:b c.csv",
        "-a(.csv",
    ],
)
def test_a_name_with_signs_of_the_grammar_is_quoted_in_the_mend(name: str) -> None:
    words = ["task=portfolio", "data=csv", f"data.file={name}"]
    try:
        normalise(words)
    except ddfl.UserError as error:
        mend = str(error).split("write ", 1)[1].removesuffix(" if it is one value")
        (typed,) = shlex.split(mend)
        words[-1] = typed
    assert compose_config(normalise(words)).data.file == name


def test_instants_over_a_change_of_the_clock_are_put_in_order() -> None:
    local = [
        "2019-03-31 01:00+01:00",
        "2019-03-31 03:00+02:00",
        "2019-03-31 04:00+02:00",
        *[f"2019-04-{day:02d} 00:00+02:00" for day in range(1, 20)],
    ]
    frame = pd.DataFrame({"when": local[::-1], "x": np.arange(22.0), "y": np.arange(22.0)})
    data = frame_dataset("clock", frame, ["x"], ["y"], np.random.default_rng(0), date="when")
    np.testing.assert_array_equal(data.outcomes[:, 0], np.arange(22.0)[::-1])
    frame.loc[3, "when"] = "2019-04-16 00:00"
    with pytest.raises(ddfl.DataError, match=r"utc=True"):
        frame_dataset("clock", frame, ["x"], ["y"], np.random.default_rng(0), date="when")


@pytest.mark.parametrize("text", ["1_000", "1__0", "_1"])
def test_a_number_with_an_underscore_is_none(text: str) -> None:
    assert np.isnan(_number(text))
    assert _number("1000") == 1000.0
