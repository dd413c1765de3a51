"""Intervals over seeds and days: their coverage, and what they are made from."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.suite.reporting.collect import Collection, collect
from diffusion_dfl.suite.reporting.days import BLOCK, costs_by_day, interval
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.markdown import render
from diffusion_dfl.suite.reporting.table1 import build
from tests.suite.reporting.records import summary, wanted, write_all


def panel(values: np.ndarray) -> pd.DataFrame:
    days = pd.date_range("2015-01-01", periods=values.shape[1]).strftime("%Y-%m-%d")
    return pd.DataFrame(values, columns=days)


def test_without_noise_the_interval_is_the_difference() -> None:
    ours, theirs = panel(np.full((10, 60), 3.0)), panel(np.full((10, 60), 1.0))
    assert interval(ours, theirs) == pytest.approx((2.0, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10])
def test_where_seeds_alone_vary_it_is_no_shorter_than_theirs(seeds: int) -> None:
    rng = np.random.default_rng(5)
    held = []
    for _ in range(150):
        values = np.repeat(rng.normal(size=(seeds, 1)), 60, axis=1)
        low, high = interval(panel(values), panel(np.zeros_like(values)))
        held.append(low <= 0 <= high)
    assert np.mean(held) >= 0.9


@pytest.mark.slow
def test_it_holds_the_mean_where_seeds_and_weeks_vary_and_one_over_seeds_does_not() -> None:
    """Seed effects of 0.1 and weekly effects of 1 on 300 days: 95 % nominal."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(150):
        weeks = np.repeat(rng.normal(size=43), 7)[:300]
        noise = 0.1 * rng.normal(size=(10, 1)) + weeks + rng.normal(size=(10, 300))
        low, high = interval(panel(noise), panel(np.zeros((10, 300))))
        held.append(low <= 0 <= high)
    assert 0.9 <= np.mean(held) <= 1.0


def test_days_alike_for_all_seeds_widen_it_beyond_the_one_over_seeds() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(1, 20 * BLOCK)) + 0.01 * rng.normal(size=(10, 20 * BLOCK))
    low, high = interval(panel(common), panel(np.zeros_like(common)))
    over_seeds = common.mean(axis=1).std(ddof=1) / np.sqrt(10)
    assert high - low > 10 * over_seeds


def test_few_seeds_or_days_have_none() -> None:
    assert np.isnan(interval(panel(np.ones((4, 60))), panel(np.zeros((4, 60))))).all()
    assert np.isnan(interval(panel(np.ones((9, 20))), panel(np.zeros((9, 20))))).all()


def test_a_table_shows_it_for_days_and_not_for_rows_that_are_none(tmp_path: Path) -> None:
    records = [
        summary("gaussian", grad, seed, cost + seed)
        for grad, cost in (("two_stage", 3.0), ("reparam", 2.0))
        for seed in range(6)
    ]

    def published(names: list[str]) -> Collection:
        rows = {
            number: pd.Series(record["test"]["task"], index=names, dtype=float)
            for number, record in enumerate(records)
        }
        write_all(tmp_path, records, rows)
        return collect(tmp_path)

    found = published(list(pd.date_range("2015-01-01", periods=40).strftime("%Y-%m-%d")))
    runs = frame(found)
    assert costs_by_day(found, runs[runs["grad"] == "reparam"]).shape == (6, 40)
    table = build(runs, wanted(), collection=found)
    wide = table.over_days("against_two_stage")["Gaussian reparameterization"]
    assert (wide.low, wide.high) == pytest.approx((-1.0, -1.0))
    assert "95 %, seeds and days" in render(table)
    found = published([f"row {day}" for day in range(40)])
    assert "seeds and days" not in render(build(frame(found), wanted(), collection=found))
