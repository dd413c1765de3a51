"""Predictors beside each other: under one rule, or with a word of warning."""

import copy
import logging
from functools import partial
from typing import Any

import pytest

import diffusion_dfl as ddfl
from tests.training.problems import RULE, WHOLE, task

SHORT = ddfl.TrainingSettings(epochs=1, batch_size=1000, learning_rate=1e-2)
SMALL = partial(ddfl.GaussianPredictor, width=4, layers=1)
POINT = partial(ddfl.DeterministicPredictor, width=4, layers=1)


def said(caplog: pytest.LogCaptureFixture, *fitted: ddfl.Fitted) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for one in fitted:
            one.evaluate(num_large=6)
    return [record.getMessage() for record in caplog.records]


def trained(
    problem: ddfl.Task, predictor: Any, estimator: Any = None, **options: Any
) -> ddfl.Fitted:
    return ddfl.train(
        problem, predictor, estimator, fit=SHORT, train=SHORT, device="cpu", **options
    )


def test_two_rules_on_one_task_are_both_named_once(caplog: pytest.LogCaptureFixture) -> None:
    problem = task()
    first = trained(problem, SMALL, decision=RULE)
    exact = ddfl.DecisionRule(num_scenarios=6, bandwidth_scale=0.0)
    second = trained(problem, SMALL, ddfl.Reparam(6), decision=exact)
    (message,) = said(caplog, first, first, second, second, first)
    assert "bandwidth_scale=0.0" in message and "bandwidth_scale=1.5" in message
    assert "num_scenarios" not in message and "task stock" in message
    assert said(caplog, trained(task(), SMALL, decision=exact)) == []  # The data are others.


def test_what_changes_no_decision_is_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    problem = task()
    slow = ddfl.DecisionRule(num_scenarios=6, on_failure="retry")
    fitted = [
        trained(problem, SMALL, decision=RULE),
        trained(problem, SMALL, decision=slow),
        trained(problem, POINT),
        trained(problem, POINT, ddfl.Reparam(1)),
        trained(problem, ddfl.PolicyNetwork, ddfl.Policy()),
    ]
    assert said(caplog, *fitted) == []


def test_a_predictor_that_is_trained_on_brings_its_rule_and_a_copy_none() -> None:
    problem = task()
    exact = ddfl.DecisionRule(num_scenarios=6, bandwidth_scale=0.0)
    fitted = trained(problem, SMALL, decision=exact)
    on = partial(ddfl.train, problem, fit=None, train=SHORT, device="cpu")
    assert on(fitted.predictor).rule == exact
    assert on(fitted.predictor, ddfl.Reparam(3)).rule == ddfl.DecisionRule(3, 0.0)
    assert on(fitted.predictor, ddfl.Reparam(6), decision=RULE).rule == RULE
    assert on(copy.deepcopy(fitted.predictor), ddfl.Reparam(3)).rule == ddfl.DecisionRule(3)
    assert ddfl.train(problem, SMALL, fit=WHOLE, device="cpu").rule == ddfl.DecisionRule()
