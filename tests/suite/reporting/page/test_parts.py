"""Parts of the page: privacy, curves, rows, dots, documents."""

import math
import re
from pathlib import Path

import pytest

from diffusion_dfl.suite.reporting.page.curves import POINTS, average, by_stage, thinned
from diffusion_dfl.suite.reporting.page.document import sections
from diffusion_dfl.suite.reporting.page.dots import Dot, chart, ticks
from diffusion_dfl.suite.reporting.page.grids import (
    Entry,
    difference_grid,
    main_grid,
    own_grid,
    twin_grid,
)
from diffusion_dfl.suite.reporting.page.privacy import cleaned, redact
from diffusion_dfl.suite.reporting.page.render import render
from tests.suite.reporting.page.pages import add_own, gathered, make_results
from tests.suite.reporting.records import summary


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/jane/data/load.csv", "…/load.csv"),
        ("/home/jane doe/my load.csv", "…/my load.csv"),
        ("/home/jane", "(path)"),
        ("/home/jane.doe", "(path)"),
        ("~/work", "(path)"),
        ("C:\\Users\\Jane\\load.csv", "…/load.csv"),
        ("\\\\server\\jane\\load.csv", "(path)"),
        ("cannot read /home/jane/x/a.csv, retry", "cannot read …/a.csv, retry"),
        ("no file '/home/jane doe/x/a b.csv'", "no file '…/a b.csv'"),
        ("https://u:secret@host.org/a/b.csv?token=1#x", "https://host.org/a/b.csv"),
        # What is no path stays.
        ("published/laptop/power/a-b/seed-0", "published/laptop/power/a-b/seed-0"),
        ("5 % a/b or 1/2, e.g. I/O", "5 % a/b or 1/2, e.g. I/O"),
        ("diffusion_dfl.tasks.power_task", "diffusion_dfl.tasks.power_task"),
    ],
)
def test_paths_and_credentials_are_cut(text: str, told: str) -> None:
    assert redact(text) == told


def test_values_named_as_secrets_are_withheld_and_others_kept() -> None:
    told = cleaned(
        {
            "api_key": "k",
            "data.api_key": "k",
            "wandb_token": "t",
            "host": None,
            "num_tokens": 3,
            "l": ["~/a"],
        }
    )
    assert told == {
        "api_key": "(withheld)", "data.api_key": "(withheld)", "wandb_token": "(withheld)",
        "host": None, "num_tokens": 3, "l": ["(path)"],
    }  # fmt: skip


def test_curves_are_means_with_standard_errors_over_the_seeds_that_have_the_epoch() -> None:
    values = [{0: 1.0, 1: 2.0}, {0: 3.0, 1: 6.0}, {0: 5.0}]
    runs = [
        by_stage([{"stage": "train", "epoch": e, "validation_score": v} for e, v in run.items()])
        for run in values
    ]
    (curve,) = average(runs)
    band = curve.bands["validation_score"]
    assert band.mean == [3.0, 4.0]
    assert band.error == [pytest.approx(2 / math.sqrt(3)), pytest.approx(2.0)]
    assert band.count == [3, 2]
    assert curve.own == [[1.0, 2.0], [3.0, 6.0], [5.0, None]]


def test_an_epoch_told_again_after_a_restart_counts_once() -> None:
    told = [{"stage": "train", "epoch": 1, "validation_score": v} for v in (9.0, 2.0)]
    assert by_stage(told)["train"][1]["validation_score"] == 2.0


def test_thinning_keeps_both_ends_and_the_order() -> None:
    epochs = list(range(3, 5000))
    kept = thinned(epochs)
    assert len(kept) <= POINTS and kept[0] == 3 and kept[-1] == 4999
    assert kept == sorted(set(kept))
    assert thinned([1, 2, 5]) == [1, 2, 5]


def test_rows_sort_by_numbers_and_what_is_missing_has_none(tmp_path: Path) -> None:
    make_results(tmp_path)
    shown = gathered(tmp_path).tables[0]
    grid = main_grid(shown.table, shown.places)
    rows = {row.title: row for row in grid.rows}
    task = grid.heads.index("Task ↓") - 1
    assert rows["Diffusion score function"].entries[task].value == pytest.approx(10.525)
    assert rows["Gaussian reparameterization"].entries[task].mark == "best"
    assert rows["Gaussian TS"].entries[task].mark == "second"
    missing = rows["Diffusion TS"].entries[task]
    assert (missing.text, missing.value) == ("missing", None)
    assert rows["Diffusion TS"].place == ""
    assert rows["Gaussian TS"].place == "published/laptop/power/gaussian-two_stage"
    # A sum over 24 hours is sorted by the hour.
    printed = rows["Policy-based learning"].entries[grid.heads.index("RMSE, paper") - 1]
    assert printed.text.startswith("4.712 ± 0.10") and printed.value == pytest.approx(4.712 / 24)
    assert all(len(row.entries) == len(grid.heads) - 1 for row in grid.rows)


def test_ours_stands_before_the_papers_and_the_task_before_all(tmp_path: Path) -> None:
    make_results(tmp_path)
    shown = gathered(tmp_path).tables[0]
    heads = main_grid(shown.table, shown.places).heads
    assert heads[:5] == ("Method", "Task ↓", "Task, paper", "RMSE", "RMSE, paper")


def test_the_readers_own_runs_come_first_and_without_their_paths(tmp_path: Path) -> None:
    make_results(tmp_path)
    assert gathered(tmp_path).own == []
    identity = {
        "scale": "smoke",
        "differs": {"data.file": "/home/jane/load.csv", "data.api_key": "k1"},
    }
    for seed, value in enumerate((2.0, 4.0)):
        record = summary("gaussian", "score", seed, value, {"baselines": {"saa": 8.0}}, **identity)
        add_own(tmp_path, f"smoke/power/gaussian-score-0000000c/seed-{seed}", record)
    report = gathered(tmp_path)
    assert [one.table.scale for one in report.tables] == ["laptop"]  # smoke ranks no methods
    grid = own_grid(report.own[0])
    assert [row.kind for row in grid.rows] == ["method", "baseline"]
    title = report.own[0].title
    assert "data.file=…/load.csv" in title and "k1" not in title + grid.rows[0].title
    assert grid.rows[0].entries[0] == Entry("3.000 ± 1.000", 3.0)
    page = render(report)
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    assert facts[0] == ("runs of yours", "2")
    # A trial scale ranks no methods.
    assert not any("best cost of yours" in told for told, _ in facts)
    assert page.index('id="yours"') < page.index('id="table1"')
    assert "jane" not in page


def test_differences_and_twins_say_on_which_side_of_zero_they_lie(tmp_path: Path) -> None:
    make_results(tmp_path)
    table = gathered(tmp_path).tables[0].table
    rows = {row.title: row for row in difference_grid(table).rows}
    assert rows["Gaussian reparameterization"].entries[0].beside == "Gaussian TS"
    assert [rows["Gaussian reparameterization"].entries[i].mark for i in (1, 3)] == ["better"] * 2
    assert rows["Diffusion score function"].entries[3].mark == "worse"
    (twin,) = twin_grid(table).rows
    assert twin.title == "Gaussian reparameterization"
    assert twin.entries[3].mark == "better" and twin.entries[4].value == 6


def test_dots_of_several_orders_of_magnitude_get_a_logarithmic_axis() -> None:
    nan = math.nan
    dots = [Dot("a", 0.4, 0.3, 0.5, ""), Dot("b", 5000.0, nan, nan, "")]
    wide = chart("t", "n", "cost", dots)
    assert wide is not None and "logarithmic" in wide.axis
    assert [text for _, text in wide.ticks] == ["1", "10", "100", "1000"]
    assert wide.rows[1].start is None
    short = chart("t", "n", "cost", [Dot("a", 3.2, nan, nan, ""), Dot("b", 33.5, nan, nan, "")])
    assert short is not None and [text for _, text in short.ticks] == ["5", "10", "20"]
    narrow = chart("t", "n", "cost", dots[:1])
    assert narrow is not None and narrow.axis == "cost"
    at, start, end = (
        float(str(x)[:-1]) for x in (narrow.rows[0].at, narrow.rows[0].start, narrow.rows[0].end)
    )
    assert start < at < end and at == pytest.approx((start + end) / 2)
    assert chart("t", "n", "cost", []) is None


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0301, 0.0932), (3.1, 41.2), (2.0, 2.0)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 5
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)


def test_documents_lose_links_pictures_and_raw_html() -> None:
    text = (
        "# Title\n\nLead [a file](x.md).\n\n![p](p.png)\n\n## Part\n\n"
        "| claim | verdict |\n|---|---:|\n| c | **not reproduced**: no |\n\n<b onclick=x>raw</b>\n"
    )
    first, part = sections(text, 4)
    assert first.title == "Title" and str(first.html) == "<p>Lead a file.</p>\n"
    assert part.title == "Part"
    assert '<strong class="verdict bad">not reproduced</strong>' in part.html
    assert "style=" not in part.html and '<td class="number">' in part.html
    assert "&lt;b onclick=x&gt;" in part.html
