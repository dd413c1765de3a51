"""Rows weighted by the cost of their decisions, against a newsvendor whose decisions are known."""

import pytest
import torch

import diffusion_dfl as ddfl
from diffusion_dfl.estimators import CostWeighted, TwoStage
from diffusion_dfl.estimators.base import Batch
from diffusion_dfl.predictors import DeterministicPredictor

torch.set_num_threads(1)
# Decides z = y of one scenario; costs 3 a unit short and 1 a unit left, and -5 whatever is done.
NEWSVENDOR = ddfl.TorchProgram(
    1,
    1,
    smooth=lambda y, z: -5 + 1e-9 * (z @ z),
    hinges=[ddfl.Hinge(3.0, lambda y, z: y - z), ddfl.Hinge(1.0, lambda y, z: z - y)],
    lower=0.0,
    upper=10.0,
)
CONTEXT = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
OUTCOME = torch.tensor([[2.0], [5.0], [1.0], [12.0]])


def predictor() -> DeterministicPredictor:
    torch.manual_seed(0)
    made = DeterministicPredictor(1, 1, width=4, layers=1)
    made.fit_scaling(CONTEXT, OUTCOME)
    return made.eval()


def loss_of(estimator: CostWeighted | TwoStage, batch: Batch) -> ddfl.Loss:
    layer = ddfl.DecisionLayer(NEWSVENDOR)
    return estimator(predictor(), layer, batch, torch.Generator().manual_seed(0))


def by_hand(weights: torch.Tensor | None = None) -> torch.Tensor:
    """Regrets: 3 a unit predicted too little, 1 too much; of the last, the best order is the limit 10."""
    made = predictor().sample(CONTEXT, 1, torch.Generator()).detach()[:, 0].clamp(0.0, 10.0)
    missed = OUTCOME.clamp_max(10.0) - made
    regret = torch.where(missed > 0, 3 * missed, -missed)[:, 0]
    given = torch.ones(4) if weights is None else weights
    weights = regret / regret.mean() * given
    return predictor().loss(CONTEXT, OUTCOME, torch.Generator(), weights=weights)


@pytest.mark.parametrize(
    "weights", [None, torch.tensor([0.0, 2.0, 1.0, 1.0])], ids=["plain", "rows"]
)
def test_weights_are_costs_above_those_of_the_best_decisions(weights: torch.Tensor | None) -> None:
    found = loss_of(CostWeighted(7), Batch(CONTEXT, OUTCOME, weights=weights))
    assert found.value.detach() == pytest.approx(by_hand(weights).item(), rel=1e-5)


def test_its_gradient_is_that_of_the_weighted_loss_with_weights_held() -> None:
    model, layer = predictor(), ddfl.DecisionLayer(NEWSVENDOR)
    batch = Batch(CONTEXT, OUTCOME)
    CostWeighted(1)(model, layer, batch, torch.Generator()).value.backward()
    found = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    made = model.sample(CONTEXT, 1, torch.Generator()).detach()[:, 0].clamp(0.0, 10.0)
    missed = (OUTCOME.clamp_max(10.0) - made)[:, 0]
    regret = torch.where(missed > 0, 3 * missed, -missed)
    model.loss(CONTEXT, OUTCOME, torch.Generator(), weights=regret / regret.mean()).backward()
    wanted = [one.grad for one in model.parameters()]
    assert all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found, wanted, strict=True)
    )


def test_a_share_lies_between_the_two() -> None:
    batch = Batch(CONTEXT, OUTCOME)
    plain, whole, half = (
        loss_of(one, batch).value for one in (TwoStage(), CostWeighted(1), CostWeighted(1, 0.5))
    )
    assert loss_of(CostWeighted(1, 0.0), batch).value == plain
    assert half.detach() == pytest.approx((plain + whole).item() / 2, rel=1e-6)


def test_one_decision_for_all_rows_is_weighted_by_what_it_costs_each() -> None:
    found = loss_of(CostWeighted(1), Batch(CONTEXT, OUTCOME, pooled=True))
    made = predictor().sample(CONTEXT[:1], 1, torch.Generator()).detach()[:, 0].clamp(0.0, 10.0)
    missed = (OUTCOME.clamp_max(10.0) - made)[:, 0]
    regret = torch.where(missed > 0, 3 * missed, -missed)
    wanted = predictor().loss(CONTEXT, OUTCOME, torch.Generator(), weights=regret / regret.mean())
    assert found.value.detach() == pytest.approx(wanted.item(), rel=1e-5)


def test_rows_whose_program_has_no_solution_count_nothing() -> None:
    limited = ddfl.TorchProgram(
        1,
        1,
        smooth=lambda y, z: ((y - z) ** 2).sum(),
        lower=0.0,
        matrix=[[1.0]],
        limit=lambda x: x + 5.0,
    )
    layer = ddfl.DecisionLayer(limited, max_failure_share=1.0)
    context = torch.tensor([[0.0], [-9.0], [2.0], [3.0]])
    found = CostWeighted(1)(predictor(), layer, Batch(context, OUTCOME), torch.Generator())
    made = predictor().sample(context, 1, torch.Generator()).detach()[:, 0].clamp_min(0.0)
    top = context + 5.0
    regret = (OUTCOME - made.minimum(top)) ** 2 - (OUTCOME - OUTCOME.minimum(top)) ** 2
    regret = torch.where(top > 0, regret, 0.0)[:, 0]
    wanted = predictor().loss(context, OUTCOME, torch.Generator(), weights=regret / regret.mean())
    assert found.value.detach() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        CostWeighted(1, share)
