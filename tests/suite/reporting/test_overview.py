"""The picture of all methods on all tasks, with what does not fit."""

from pathlib import Path

import pytest

from diffusion_dfl.suite.reporting.figures.catalogue import FigureSource, MissingRuns
from diffusion_dfl.suite.reporting.figures.overview import overview
from diffusion_dfl.suite.reporting.paper import ROWS
from diffusion_dfl.suite.reporting.selection import default_source
from tests.suite.reporting.records import summary, write_all


def records(task: str, outlier: float) -> list[dict]:
    source = default_source(task)
    cells = [(model, grad) for _, _, model, grad in ROWS][:6]
    return [
        summary(
            *cell, seed, (outlier if number == 5 else 0.1 + 0.01 * number) + 0.001 * seed,
            task=task, source=source,
        )
        for number, cell in enumerate(cells)
        for seed in range(5)
    ]  # fmt: skip


@pytest.mark.parametrize("task, outlier", [("portfolio", -3.0), ("power", 40.0), ("power", -30.0)])
def test_an_outlier_stands_at_the_edge_with_its_number(
    task: str, outlier: float, tmp_path: Path
) -> None:
    write_all(tmp_path, records(task, outlier))
    (axis,) = overview(FigureSource(tmp_path)).axes
    told = [text.get_text() for text in axis.texts if not text.get_text().startswith(("◇", "← ◇"))]
    assert len(told) == 1
    assert ("← " in told[0]) == (outlier < 0)
    low, high = axis.get_xlim()
    assert low < 0.1 and high > 0.14


def test_a_logarithmic_axis_is_made_of_positive_numbers(tmp_path: Path) -> None:
    write_all(tmp_path, records("synthetic", 5500.0))
    (axis,) = overview(FigureSource(tmp_path)).axes
    assert axis.get_xscale() == "log" and axis.get_xlim()[0] > 0


def test_without_runs_it_says_what_makes_some(tmp_path: Path) -> None:
    with pytest.raises(MissingRuns, match=r"python train\.py"):
        overview(FigureSource(tmp_path))
