"""The picture of all methods on two tasks, with what does not fit."""

from pathlib import Path

import pytest

from diffusion_dfl.suite.reporting.figures.catalogue import FigureSource, MissingRuns
from diffusion_dfl.suite.reporting.figures.overview import overview
from diffusion_dfl.suite.reporting.paper import ROWS
from diffusion_dfl.suite.reporting.selection import default_source
from tests.commands import ROOT
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
def test_an_outlier_stands_in_the_margin_with_its_number(
    task: str, outlier: float, tmp_path: Path
) -> None:
    write_all(tmp_path, records(task, outlier))
    (axis,) = overview(FigureSource(tmp_path)).axes
    texts = [text for text in axis.texts if f"{outlier:.2f}" in text.get_text()]
    assert len(texts) == 1
    assert texts[0].get_text().startswith("← ") == (outlier < 0)
    low, high = axis.get_xlim()
    assert low < 0.1 and high > 0.14


@pytest.mark.slow
def test_the_committed_picture_is_read_at_the_width_of_a_readme() -> None:
    figure = overview(FigureSource(ROOT / "results", own=False))
    assert len(figure.axes) == 2
    figure.canvas.draw()
    pixels = 838 / figure.bbox.width  # of the picture for one of the figure's
    for axis in figure.axes:
        beside = axis.get_window_extent()
        for text in axis.texts:  # in the margin, where no line is; or in a row without a dot
            assert text.get_text() == "no runs yet" or text.get_window_extent().x0 > beside.x1
        shown = [*axis.texts, *axis.get_xticklabels(), *axis.get_yticklabels(), axis.title]
        sizes = [one.get_fontsize() for one in shown if one.get_text()]
        assert min(sizes) * figure.dpi / 72 * pixels >= 11
    assert figure.get_tightbbox().x1 <= figure.get_figwidth()


def test_a_logarithmic_axis_is_made_of_positive_numbers(tmp_path: Path) -> None:
    write_all(tmp_path, records("synthetic", 5500.0))
    (axis,) = overview(FigureSource(tmp_path)).axes
    assert axis.get_xscale() == "log" and axis.get_xlim()[0] > 0


def test_without_runs_it_says_what_makes_some(tmp_path: Path) -> None:
    with pytest.raises(MissingRuns, match=r"python train\.py"):
        overview(FigureSource(tmp_path))
