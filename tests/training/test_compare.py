"""Costs side by side, paired over the test rows."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import stats

import diffusion_dfl as ddfl
from tests.training.problems import RULE, task

SHORT = ddfl.TrainingSettings(epochs=1, batch_size=1000, learning_rate=1e-2)
SMALL = partial(ddfl.GaussianPredictor, width=4, layers=1)


def trained(problem: ddfl.Task) -> ddfl.Fitted:
    return ddfl.train(problem, SMALL, decision=RULE, fit=SHORT, device="cpu")


def test_costs_are_those_of_an_evaluation_and_intervals_those_of_a_paired_t_test() -> None:
    problem = task()
    one = trained(problem)
    table = ddfl.compare({"gaussian": one})
    plain = problem.baselines()
    assert list(table.index) == [*plain, "gaussian"]
    evaluation = one.evaluate(num_large=6)
    assert table.loc["gaussian", "cost"] == pytest.approx(evaluation.metrics["task"], rel=1e-9)
    test = problem.dataset.test
    costs = {name: problem.judge(test, z).per_row for name, z in plain.items()}
    best = min(costs, key=lambda name: float(costs[name].mean()))
    assert tuple(table.loc[best, ["gain", "low", "high"]]) == (0.0, 0.0, 0.0)
    difference = costs[best] - evaluation.per_row
    found = stats.ttest_1samp(difference, 0.0).confidence_interval()
    gain, low, high, rows = table.loc["gaussian", ["gain", "low", "high", "rows"]]
    np.testing.assert_allclose([gain, low, high], [difference.mean(), *found], rtol=1e-9)
    assert rows == len(test)


def test_rows_that_follow_each_other_count_as_one_in_a_block() -> None:
    problem = task()
    test = problem.dataset.test
    rng = np.random.default_rng(1)
    rule = np.repeat(rng.uniform(3, 6, (len(test) // 4 + 1, 1)), 4, axis=0)[: len(test)]
    rule = np.hstack([rule, rule])
    rows, blocks = (
        ddfl.compare(
            {"gaussian": trained(problem)}, "gaussian", others={"thumb": rule}, block=block
        ).loc["thumb"]
        for block in (1, 4)
    )
    assert blocks["rows"] == len(test) // 4 * 4 <= rows["rows"]
    assert blocks["high"] - blocks["low"] > rows["high"] - rows["low"]


def test_a_gain_is_above_zero_for_better_where_higher_is_better_too() -> None:
    problem = task()

    class Turned(ddfl.FrameTask):
        higher_is_better = True

        def judge(self, rows: Any, decisions: Any) -> ddfl.Judgement:
            cost = super().judge(rows, decisions)
            return ddfl.Judgement(-cost.per_row)

    turned = Turned(problem.name, problem.program, problem.dataset, ("a", "b"))
    one = trained(problem)
    found = ddfl.compare({"gaussian": dataclasses.replace(one, task=turned)}, "saa")
    expected = ddfl.compare({"gaussian": one}, "saa")
    # The nearest neighbours' number is chosen by the same numbers, which are turned for them.
    np.testing.assert_allclose(found.loc["gaussian", "gain"], expected.loc["gaussian", "gain"])


def test_rows_without_a_decision_are_left_out_of_both_and_said_to_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problem = task()
    rule = np.full((len(problem.dataset.test), 2), 5.0)
    rule[0] = np.nan
    table = ddfl.compare({"gaussian": trained(problem)}, "gaussian", others={"thumb": rule})
    assert table.loc["thumb", "rows"] == len(rule) - 1
    assert table.loc["gaussian", "rows"] == len(rule)
    assert np.isfinite(table.loc["thumb"].to_numpy()).all()
    (message,) = caplog.messages
    assert message.startswith(f"thumb: 1 of {len(rule)} test rows have no decision")


@pytest.mark.filterwarnings("error")
def test_who_decides_no_row_has_no_numbers_and_is_said_to(caplog: pytest.LogCaptureFixture) -> None:
    problem = task()
    rule = np.full((len(problem.dataset.test), 2), np.nan)
    one = trained(problem)
    for against in (None, "gaussian", "thumb"):
        caplog.clear()
        table = ddfl.compare({"gaussian": one}, against, others={"thumb": rule})
        assert table.loc["thumb", ["cost", "gain", "low", "high"]].isna().all()
        assert table.loc["thumb", "rows"] == 0
        assert np.isfinite(table.loc["gaussian", "cost"])
        assert caplog.messages == ["thumb: no test row has a decision; it has no cost and no gain"]


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    problem = task()
    one = trained(problem)
    other = np.zeros((3, 2))
    far = np.zeros((len(problem.dataset.test), 2))
    far[1, 1] = 1e3
    cases: list[tuple[Any, str]] = [
        (lambda: ddfl.compare({}), "nothing to compare"),
        (lambda: ddfl.compare({"a": one, "b": trained(task())}), "one task"),
        (lambda: ddfl.compare({"a": dataclasses.replace(one, task=None)}), "without its data"),
        (lambda: ddfl.compare({"a": one}, "b"), "against='b' is none of saa"),
        (lambda: ddfl.compare({"saa": one}), "saa: a name stands for one"),
        (lambda: ddfl.compare({"a": one}, others={"thumb": other}), r"thumb: .*\(3, 2\)"),
        (
            lambda: ddfl.compare({"a": one}, others={"thumb": far}),
            r"thumb: 1 of \d+ decisions break the constraints, that of test row 1 first; project\(",
        ),
        (lambda: ddfl.compare({"a": one}, block=0), "block=0 must lie in"),
    ]
    for call, message in cases:
        with pytest.raises(ddfl.UserError, match=message):
            call()
