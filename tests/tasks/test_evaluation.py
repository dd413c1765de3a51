"""What `task`, RMSE, CRPS and coverage are, against their plain definitions."""

import json
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.data import Dataset
from diffusion_dfl.estimators import Batch
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import (
    DecisionMaker,
    DeterministicPredictor,
    PolicyNetwork,
    Predictor,
)
from diffusion_dfl.predictors.base import FULL, Backpropagation, LogDensity
from diffusion_dfl.programs import PowerProgram, bandwidth
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks import Judgement, evaluation, project, rule
from diffusion_dfl.tasks.evaluation import Evaluation, Judge, decision_scores, evaluate
from diffusion_dfl.tasks.power import PowerTask

HOURS, DAYS, FEW, LARGE, SCALE = 5, 12, 20, 60, 1.5
PROGRAM = PowerProgram(num_decisions=HOURS)


class Table(Predictor):
    """Scenarios from a table; a day's context is its row."""

    def __init__(self, scenarios: Tensor) -> None:
        super().__init__(1, scenarios.shape[2])
        self.scenarios = scenarios

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        return self.scenarios[context[:, 0].long(), :num_scenarios]

    def loss(self, context: Tensor, outcome: Tensor, generator: torch.Generator) -> Tensor:
        raise AssertionError("an evaluation needs scenarios only")

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        raise AssertionError("an evaluation needs scenarios only")


def _data() -> tuple[Tensor, Tensor, Tensor]:
    """Scenarios (DAYS, LARGE, HOURS), contexts and outcomes."""
    generator = torch.Generator().manual_seed(3)
    scenarios = 1 + 0.3 * torch.randn(DAYS, LARGE, HOURS, generator=generator)
    outcomes = 1 + 0.3 * torch.randn(DAYS, HOURS, generator=generator)
    return scenarios, torch.arange(float(DAYS)).unsqueeze(1), outcomes


def _judge(outcomes: Tensor) -> Judge:
    """Cost of a day, by the formula of the paper."""

    def judge(decisions: np.ndarray) -> Judgement:
        hourly = _cost(decisions, outcomes.double().numpy())
        return Judgement(hourly.sum(1), {"hourly": np.nanmean(hourly, axis=0).tolist()})

    return judge


def _layer() -> DecisionLayer:
    return DecisionLayer(PROGRAM, SCALE, sample_size=FEW)


def _rows() -> Batch:
    return Batch(*_data()[1:])


def _evaluate(
    predictor: DecisionMaker | None = None,
    rows: Batch | None = None,
    layer: DecisionLayer | None = None,
    judge: Judge | None = None,
) -> Evaluation:
    predictor, rows = predictor or Table(_data()[0]), rows or _rows()
    count = FEW if predictor.stochastic else 1
    judge, layer = judge or _judge(rows.outcome), layer or _layer()
    return evaluate(predictor.eval(), layer, rows, count, torch.Generator(), judge, LARGE)


def _scores(predictor: DecisionMaker, *layers: DecisionLayer, pooled: bool = False) -> list[float]:
    rows = replace(_rows(), pooled=pooled)
    return decision_scores(predictor.eval(), layers, rows, FEW, torch.Generator())


def _policy() -> PolicyNetwork:
    torch.manual_seed(0)
    policy = PolicyNetwork(1, HOURS, 8, 1)
    policy.fit_scaling(*_data()[1:])
    return policy.eval()


def _cost(decision: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """f(y, z) an hour, as the paper prints it."""
    gap = outcome - decision
    return 50 * np.maximum(gap, 0) + 0.5 * np.maximum(-gap, 0) + 0.5 * gap**2


@pytest.mark.parametrize(
    ("metric", "count", "smooth"),
    [
        ("task", FEW, True),
        ("task_exact", FEW, False),
        ("task_large", LARGE, True),
        ("task_exact_large", LARGE, False),
    ],
)
def test_costs_are_those_of_the_rule_named(metric: str, count: int, smooth: bool) -> None:
    table, _, outcomes = _data()
    scenarios = table[:, :count].double()
    # The width is that of the training M, whatever the number of scenarios.
    width = SCALE * scenarios.numpy().std(1) * FEW**-0.2
    solution = solve(PROGRAM, scenarios, None, torch.as_tensor(width) if smooth else None)
    hourly = _cost(solution.decision.numpy(), outcomes.double().numpy())
    result = _evaluate()
    assert result.metrics[metric] == pytest.approx(hourly.sum(1).mean(), rel=1e-10)
    if metric == "task":
        np.testing.assert_allclose(result.per_row, hourly.sum(1), rtol=1e-10)
        np.testing.assert_allclose(result.metrics["hourly"], hourly.mean(0), rtol=1e-10)


def test_the_rules_differ() -> None:
    metrics = _evaluate().metrics
    values = [metrics[k] for k in ("task", "task_exact", "task_large", "task_exact_large")]
    assert len(set(values)) == 4
    assert metrics["solver_failures"] == _evaluate().undecided == 0


def test_exact_decisions_are_those_of_the_plain_program() -> None:
    table, _, outcomes = _data()
    costs = []
    for scenarios, outcome in zip(
        table[:3].double().numpy(), outcomes.double().numpy(), strict=False
    ):
        problem, z, _ = PROGRAM.cvxpy_problem(scenarios[:FEW], np.full(FEW, 1 / FEW))
        problem.solve(solver=cp.CLARABEL)
        costs.append(_cost(z.value, outcome).sum())
    result = _evaluate(rows=_rows().select(slice(3)), layer=DecisionLayer(PROGRAM, 0.0))
    np.testing.assert_allclose(result.per_row, costs, rtol=1e-5)
    assert result.metrics["task"] == result.metrics["task_exact"]


def test_forecast_scores_are_their_definitions() -> None:
    table, _, outcomes = (value.double().numpy() for value in _data())
    metrics = _evaluate().metrics
    errors = table - outcomes[:, None]
    assert metrics["rmse_scenario"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert metrics["rmse_mean"] == pytest.approx(np.sqrt(np.mean((table.mean(1) - outcomes) ** 2)))
    low, high = np.quantile(table, [0.05, 0.95], axis=1)
    assert metrics["coverage_90"] == pytest.approx(np.mean((low <= outcomes) & (outcomes <= high)))
    # The fair estimator: pairs of different scenarios only.
    pairs = np.abs(table[:, :, None] - table[:, None]).sum((1, 2)) / (LARGE * (LARGE - 1))
    assert metrics["crps"] == pytest.approx((np.abs(errors).mean(1) - 0.5 * pairs).mean())


def test_crps_of_a_gaussian_forecast_is_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    scenarios = torch.randn(1, 40_000, 3, generator=generator).double()
    outcome = torch.tensor([[0.0, 1.0, -2.0]]).double()
    scores = evaluation._forecast_scores(scenarios, outcome)
    normal = torch.distributions.Normal(torch.zeros(1).double(), 1.0)
    density = normal.log_prob(outcome).exp()
    expected = outcome * (2 * normal.cdf(outcome) - 1) + 2 * density - np.pi**-0.5
    torch.testing.assert_close(scores["crps"], expected, rtol=0, atol=0.02)
    assert scores["covered"].tolist() == [[1.0, 1.0, 0.0]]


def test_a_perfect_forecast_scores_zero_and_costs_nothing() -> None:
    _, _, outcomes = _data()
    # Hours of one height, so that no ramp binds.
    flat = outcomes[:, :1].expand(-1, HOURS)
    predictor = Table(flat.unsqueeze(1).expand(-1, LARGE, -1))
    result = _evaluate(predictor, replace(_rows(), outcome=flat))
    for name in ("task", "task_exact", "task_large", "rmse_scenario", "rmse_mean", "crps"):
        assert result.metrics[name] == pytest.approx(0.0, abs=1e-6), name
    assert result.metrics["coverage_90"] == 1.0


def test_days_in_chunks_give_the_numbers_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _evaluate()
    monkeypatch.setattr(rule, "_CHUNK_ROWS", 2 * LARGE + 1)
    parts = _evaluate()
    assert parts.metrics.keys() == whole.metrics.keys()
    for name, value in whole.metrics.items():
        assert parts.metrics[name] == pytest.approx(value, rel=1e-12), name
    np.testing.assert_allclose(parts.per_row, whole.per_row, rtol=1e-12)


def test_the_validation_score_is_task_on_the_same_scenarios() -> None:
    (score,) = _scores(Table(_data()[0]), _layer())
    assert score == pytest.approx(_evaluate().metrics["task"], rel=1e-12)


def test_rules_are_scored_on_the_same_scenarios_each_as_if_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drawn once for all of them, in chunks too, and counted by each layer for itself."""
    monkeypatch.setattr(rule, "_CHUNK_ROWS", 3 * FEW)
    table = _data()[0]
    scales = (0.0, SCALE, 2 * SCALE)
    layers = [DecisionLayer(PROGRAM, scale) for scale in scales]
    predictor = Table(table)
    drawn = []
    sample = predictor.sample

    def watched(context: Tensor, *arguments: object, **options: object) -> Tensor:
        drawn.append(len(context))
        return sample(context, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor, "sample", watched)
    scores = _scores(predictor, *layers)
    assert sum(drawn) == DAYS
    alone = [_scores(Table(table), DecisionLayer(PROGRAM, scale)) for scale in scales]
    assert [[score] for score in scores] == alone
    assert len(set(scores)) == len(scales)
    assert [layer.statistics.instances for layer in layers] == [DAYS] * len(scales)


def test_unsolved_days_are_counted_and_left_out() -> None:
    table, _, _ = _data()
    broken = table.clone()
    broken[4, 0, 0] = torch.nan  # one of the first M scenarios of a day
    result, whole = _evaluate(Table(broken)), _evaluate()
    assert result.metrics["solver_failures"] == 4  # four rules decide that day
    others = np.delete(whole.per_row, 4)
    assert result.metrics["task"] == pytest.approx(others.mean(), rel=1e-10)
    assert np.isnan(result.per_row[4])
    assert np.isfinite(result.metrics["hourly"]).all()
    assert result.metrics["nonfinite_rows"] == 1
    json.dumps(result.metrics, allow_nan=False)  # a record can hold it


def test_a_point_prediction_has_neither_crps_nor_coverage() -> None:
    _, _, outcomes = _data()
    torch.manual_seed(0)
    predictor = DeterministicPredictor(1, HOURS, 8, 1)
    contexts = torch.arange(float(DAYS)).unsqueeze(1)
    predictor.fit_scaling(contexts, outcomes)
    result = _evaluate(predictor)
    assert result.metrics["crps"] is None
    assert result.metrics["coverage_90"] is None
    assert result.metrics["rmse_scenario"] == pytest.approx(result.metrics["rmse_mean"])
    predicted = predictor.sample(contexts, 1, torch.Generator())[:, 0].double()
    decision = project(PROGRAM, predicted)
    if torch.equal(decision, predicted):  # one scenario and slack ramps: decide what is predicted
        assert result.metrics["task"] == pytest.approx(
            float(PROGRAM.cost(outcomes.double(), predicted).mean())
        )


# Policies


def test_a_policy_is_judged_by_its_projected_decision_with_the_raw_one_beside_it() -> None:
    program = PowerProgram(ramp=0.02, num_decisions=HOURS)
    _, contexts, outcomes = _data()
    policy, layer = _policy(), DecisionLayer(program, SCALE)
    result = _evaluate(policy, layer=layer)
    with torch.no_grad():
        raw = policy(contexts).double()
    assert float(raw.diff(dim=1).abs().max()) > 0.02  # so that the two differ
    feasible = project(program, raw).numpy()
    observed = outcomes.double().numpy()
    assert result.metrics["task"] == pytest.approx(_cost(feasible, observed).sum(1).mean())
    assert result.metrics["task_raw"] == pytest.approx(_cost(raw.numpy(), observed).sum(1).mean())
    assert result.metrics["task"] != result.metrics["task_raw"]
    for name in ("task_exact", "task_large", "rmse_scenario", "rmse_mean", "crps", "coverage_90"):
        assert result.metrics[name] is None, name
    (score,) = _scores(policy, layer)
    assert score == pytest.approx(result.metrics["task"])
    np.testing.assert_allclose(result.per_row, _cost(feasible, observed).sum(1))


def test_the_bandwidth_of_the_layer_is_the_rule_with_its_own_sample_size() -> None:
    scenarios = _data()[0].double()
    expected = bandwidth(scenarios, None, SCALE, FEW)
    assert torch.equal(_layer().bandwidth(scenarios), expected)
    assert not torch.allclose(expected, bandwidth(scenarios, None, SCALE))


def test_one_pooled_decision_is_judged_by_every_outcome() -> None:
    table, _, outcomes = _data()
    result = _evaluate(rows=Batch(torch.zeros(DAYS, 1), outcomes, pooled=True))
    scenarios = table[:1].double()
    width = bandwidth(scenarios[:, :FEW], None, SCALE, FEW)
    decision = solve(PROGRAM, scenarios[:, :FEW], None, width).decision.numpy()
    observed = outcomes.double().numpy()
    np.testing.assert_allclose(result.per_row, _cost(decision, observed).sum(1), rtol=1e-10)
    errors = scenarios.numpy() - observed[:, None]
    assert result.metrics["rmse_scenario"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    ensemble = scenarios[0].numpy()
    pairs = np.abs(ensemble[:, None] - ensemble[None]).sum((0, 1)) / (LARGE * (LARGE - 1))
    crps = np.abs(errors).mean(1) - 0.5 * pairs
    assert result.metrics["crps"] == pytest.approx(crps.mean())
    low, high = np.quantile(ensemble, [0.05, 0.95], axis=0)
    assert result.metrics["coverage_90"] == pytest.approx(
        np.mean((low <= observed) & (observed <= high))
    )
    (score,) = _scores(Table(table), _layer(), pooled=True)
    assert score == pytest.approx(result.metrics["task"], rel=1e-10)


# Rows without a number


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_with_one_bad_scenario_counts_in_no_score(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    table, _, outcomes = _data()
    broken = table.clone()
    broken[4, LARGE - 1, 2] = value  # one hour of one scenario that only the large rules see
    metrics = _evaluate(Table(broken)).metrics
    good = np.delete(np.arange(DAYS), 4)
    scenarios, observed = table.double().numpy()[good], outcomes.double().numpy()[good]
    errors = scenarios - observed[:, None]
    assert metrics["nonfinite_rows"] == 1
    assert metrics["rmse_scenario"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert metrics["rmse_mean"] == pytest.approx(np.sqrt(np.mean(errors.mean(1) ** 2)))
    pairs = np.abs(scenarios[:, :, None] - scenarios[:, None]).sum((1, 2)) / (LARGE * (LARGE - 1))
    assert metrics["crps"] == pytest.approx((np.abs(errors).mean(1) - 0.5 * pairs).mean())
    low, high = np.quantile(scenarios, [0.05, 0.95], axis=1)
    inside = np.mean((low <= observed) & (observed <= high))
    assert metrics["coverage_90"] == pytest.approx(inside)
    # The rules on the first M scenarios decide that day as they did.
    assert metrics["solver_failures"] == 2
    assert metrics["task"] == pytest.approx(_evaluate().metrics["task"], rel=1e-12)
    (message,) = caplog.messages
    assert f"1 of {DAYS} for task_large, 1 of {DAYS} for task_exact_large (invalid input" in message


def test_rows_that_were_not_solved_are_counted_named_and_left_out_of_the_mean(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = _data()[0].clone()
    table[:3] = torch.nan
    result = _evaluate(Table(table))
    assert result.undecided == 3
    assert result.metrics["task"] == pytest.approx(_evaluate().per_row[3:].mean(), rel=1e-12)
    (message,) = caplog.messages
    assert message.startswith(f"rows without a decision: 3 of {DAYS} for task, 3 of {DAYS} for ")
    assert "means are over the other rows" in message and "decide()" in message


def test_all_rows_of_a_pooled_decision_that_was_not_made_are_undecided(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, _, outcomes = _data()
    rows = Batch(torch.zeros(DAYS, 1), outcomes, pooled=True)
    result = _evaluate(
        Table(torch.full_like(table, torch.nan)),
        rows,
        judge=lambda decisions: Judgement(_cost(decisions, outcomes.double().numpy()).sum(1)),
    )
    assert result.undecided == DAYS
    assert f"{DAYS} of {DAYS} for task," in caplog.text


def test_where_every_row_fails_the_record_holds_no_number_and_says_how_many_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, contexts, outcomes = _data()
    task = PowerTask(_dataset(contexts, outcomes), PROGRAM)
    result = _evaluate(
        Table(torch.full_like(table, torch.nan)),
        judge=lambda decisions: task.judge(np.arange(DAYS), decisions),
    )
    json.dumps(result.metrics, allow_nan=False)
    assert result.metrics["task"] is None
    assert result.metrics["rmse_scenario"] is None
    assert (result.metrics["nonfinite_rows"], result.metrics["solver_failures"]) == (DAYS, 4 * DAYS)
    assert np.isnan(result.per_row).all()
    assert "no row has one for task, task_exact, task_large" in caplog.text
    assert "other rows" not in caplog.text


def test_numbers_without_end_are_left_out_of_lists_and_dictionaries_too() -> None:
    def judge(decisions: np.ndarray) -> Judgement:
        numbers = {"interval": [1.0, np.inf], "parts": {"low": -np.inf, "high": 2}}
        return Judgement(np.full(DAYS, np.inf), numbers)

    result = _evaluate(_policy(), judge=judge)
    assert result.metrics["task"] is None
    assert result.metrics["interval"] == [1.0, None]
    assert result.metrics["parts"] == {"low": None, "high": 2}


def test_a_policy_whose_output_is_not_finite_is_counted() -> None:
    broken = _rows()
    broken.context[3] = torch.nan
    result = _evaluate(_policy(), broken)
    assert (result.metrics["nonfinite_rows"], result.metrics["solver_failures"]) == (1, 1)
    assert np.isnan(result.per_row).tolist() == [day == 3 for day in range(DAYS)]
    assert result.metrics["task"] == pytest.approx(np.nanmean(result.per_row))


def _dataset(contexts: Tensor, outcomes: Tensor) -> Dataset:
    """The days of this module, the last of them the test part."""
    return Dataset(
        name="power",
        source="simulated",
        contexts=contexts.double().numpy(),
        outcomes=outcomes.double().numpy(),
        dates=None,
        feature_names=("day",),
        train=np.arange(DAYS - 4),
        validation=np.arange(DAYS - 4, DAYS - 2),
        test=np.arange(DAYS - 2, DAYS),
    )
