"""The paper's printed numbers."""

import pytest

from diffusion_dfl.suite.reporting.paper import COMPARISON, ROWS, TABLE_1, Printed


@pytest.mark.parametrize("task", ["synthetic", "power", "portfolio"])
def test_every_row_of_the_paper_has_a_printed_value_and_ours_have_none(task: str) -> None:
    rows = {(model, grad) for _, _, model, grad in ROWS}
    assert rows - set(TABLE_1[task]) == {
        ("diffusion", "score_path"),
        ("flow", "two_stage"),
        ("flow", "reparam"),
        ("flow", "score"),
    }
    assert set(TABLE_1[task]) < rows
    assert task in COMPARISON


@pytest.mark.parametrize(
    ("task", "direction", "best", "second"),
    [
        ("synthetic", min, ("diffusion", "score"), ("diffusion", "reparam")),
        ("power", min, ("diffusion", "reparam"), ("diffusion", "score")),
        ("portfolio", max, ("diffusion", "reparam"), ("diffusion", "score")),
    ],
)
def test_the_bold_and_underlined_cells_are_the_papers(
    task: str, direction: object, best: tuple[str, str], second: tuple[str, str]
) -> None:
    values = {cell: printed[1].mean for cell, printed in TABLE_1[task].items()}
    order = sorted(values, key=values.__getitem__, reverse=direction is max)
    assert order[:2] == [best, second]


def test_power_rmse_is_an_hour_in_the_two_stage_rows_and_a_sum_in_the_others() -> None:
    for (_, grad), (rmse, _) in TABLE_1["power"].items():
        assert rmse.summed == (1 if grad == "two_stage" else 24)
        # Either way the error of an hour is of the load's order.
        assert 0.1 < rmse.mean / rmse.summed < 0.25
    assert str(Printed(2.893, 0.03, 24)) == "2.893 ± 0.03 (0.121 an hour)"
