"""Models in closed form: ridge, residual bootstraps, boosted quantiles, forest weights."""

import copy
import io

import numpy as np
import pytest
import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import (
    BaseModels,
    BoostedQuantiles,
    ForestWeights,
    LinearPredictor,
    ResidualBootstrap,
    forest,
)
from diffusion_dfl.predictors.base import Scaling
from diffusion_dfl.programs import Newsvendor
from diffusion_dfl.tasks.rule import LayerRule
from diffusion_dfl.training.loop import refuse_other_architecture

torch.set_num_threads(1)


def data(rows: int = 300, features: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    contexts = 3.0 + 2.0 * torch.randn(rows, features, generator=generator)
    noise = 0.3 * torch.randn(rows, 2, generator=generator)
    outcomes = torch.stack([contexts.sum(1), 5.0 - contexts[:, 0]], dim=1) + noise
    return contexts, outcomes


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_ridge_is_least_squares_where_rows_are_many() -> None:
    contexts, outcomes = data()
    model = LinearPredictor(4, 2)
    model.fit_rows(contexts, outcomes)
    inputs = np.column_stack([contexts.numpy(), np.ones(len(contexts))])
    weights, *_ = np.linalg.lstsq(inputs, outcomes.numpy(), rcond=None)
    location, scale = model.location_and_scale(contexts)
    np.testing.assert_allclose(location.detach(), inputs @ weights, atol=1e-2)
    np.testing.assert_allclose(scale[0], outcomes.std(0, correction=0), rtol=1e-5)


def test_the_penalty_of_a_ridge_has_the_least_leave_one_out_error() -> None:
    """By brute force, every row left out in turn, on as many features as rows."""
    contexts, outcomes = data(30, 25)
    model = LinearPredictor(25, 2)
    model.fit_rows(contexts, outcomes)
    plain = torch.linalg.lstsq(
        torch.cat([contexts, torch.ones(30, 1)], 1).double(), outcomes.double()
    ).solution
    fresh, wanted = data(400, 25)
    ridge = (model.location_and_scale(fresh).location - wanted).square().mean()
    full = torch.cat([fresh, torch.ones(400, 1)], 1).double() @ plain
    assert ridge < (full - wanted).square().mean()


def test_a_ridge_of_weighted_rows_is_least_squares_of_rows_repeated_by_their_weight() -> None:
    contexts, outcomes = data(40)
    times = torch.arange(40) % 4
    model = LinearPredictor(4, 2)
    model.fit_rows(contexts, outcomes, weights=2.5 * times.double())
    inputs = torch.cat([contexts, torch.ones(40, 1)], 1).double()
    rows = torch.arange(40).repeat_interleave(times)
    slopes = torch.linalg.lstsq(inputs[rows], outcomes[rows].double()).solution
    plain = torch.linalg.lstsq(inputs, outcomes.double()).solution
    location = model.location_and_scale(contexts).location.double()
    gap = (location - inputs @ slopes).abs().max()
    assert gap < 2e-3 < 0.05 * (inputs @ (plain - slopes)).abs().max()


def test_a_bootstrap_draws_whole_residual_vectors_of_the_base() -> None:
    contexts, outcomes = data()
    model = ResidualBootstrap(4, 2, base_models=BaseModels(1, base="linear"))
    model.fit_scaling(contexts, outcomes)
    model.base.members[0].fit_rows(contexts, outcomes)
    model.fit_rows(contexts, outcomes)
    drawn = model.sample(contexts[:5], 50, noise())
    location, scale = model.base(contexts[:5])
    residual = (drawn - location.unsqueeze(1)) / scale.unsqueeze(1)
    gap = (residual.reshape(-1, 1, 2) - model.residuals).abs().amax(-1).amin(1)
    assert gap.max() < 1e-4
    assert len(residual.reshape(-1, 2).unique(dim=0)) > 100


def test_its_residuals_are_those_of_the_scaling_it_is_seen_under() -> None:
    """Training hands it the scaling of a base that did not see the row."""
    contexts, outcomes = data(20)
    model = ResidualBootstrap(4, 2)
    scaling = Scaling(outcomes - 1.0, torch.full_like(outcomes, 2.0))
    model.under(scaling).fit_rows(contexts, outcomes)
    torch.testing.assert_close(model.residuals, torch.full_like(outcomes, 0.5))


def test_the_normal_law_has_the_residuals_moments_and_no_dependence() -> None:
    contexts, outcomes = data()
    model = ResidualBootstrap(
        4, 2, law="normal", base_models=BaseModels(1, base_width=4, base="deterministic")
    )
    model.fit_scaling(contexts, outcomes)
    model.base.members[0].fit_scaling(contexts, outcomes)
    model.residuals = torch.stack([torch.randn(500), torch.zeros(500)], 1) * 0.1 + 0.7
    location, scale = model.base(contexts[:1])
    drawn = (model.sample(contexts[:1], 20000, noise()) - location) / scale
    torch.testing.assert_close(drawn.mean((0, 1)), model.residuals.mean(0), atol=3e-3, rtol=0)
    torch.testing.assert_close(
        drawn.std((0, 1)), model.residuals.std(0, correction=0), atol=3e-3, rtol=0
    )


@pytest.mark.parametrize("law", ["empirical", "normal"])
def test_residuals_are_drawn_by_the_weights_of_their_rows(law: str) -> None:
    model = ResidualBootstrap(1, 1, law=law, base_models=BaseModels(1, base="linear"))  # type: ignore[arg-type]
    outcomes = torch.tensor([[-1.0], [0.0], [3.0]])
    weights = torch.tensor([1.5, 0.0, 0.5], dtype=torch.float64)
    scaling = Scaling(torch.zeros(3, 1), torch.ones(3, 1))
    model.under(scaling).fit_rows(torch.zeros(3, 1), outcomes, weights=weights)
    one = model.under(Scaling(torch.zeros(1, 1), torch.ones(1, 1)))
    drawn = one.sample(torch.zeros(1, 1), 20000, noise())
    # -1 three times in four, else 3: mean 0 and variance 3.
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(drawn.std()) == pytest.approx(3**0.5, rel=0.02)
    if law == "empirical":
        assert set(drawn.flatten().tolist()) == {-1.0, 3.0}
    again = ResidualBootstrap(1, 1, law=law, base_models=BaseModels(1, base="linear"))  # type: ignore[arg-type]
    _assert_restored(model, again, torch.zeros(2, 1))


def test_a_boosted_quantile_is_one_of_rows_by_their_weights() -> None:
    contexts, outcomes = data(2000)
    found = {}
    for name, weights in (("plain", None), ("tilted", 1.0 + 3.0 * (outcomes[:, 1] > 2.0))):
        model = BoostedQuantiles(4, 2, rounds=60, learning_rate=0.1)
        model.fit_rows(torch.ones_like(contexts), outcomes, weights)
        found[name] = float(model.sample(torch.ones(1, 4), 1, noise())[0, 0, 1])
        again = BoostedQuantiles(4, 2, rounds=60, learning_rate=0.1)
        _assert_restored(model, again, contexts[:50])
    low = outcomes[:, 1] <= found["tilted"]
    above = outcomes[:, 1] > 2.0
    share = float(((1.0 + 3.0 * above) * low).sum() / (1.0 + 3.0 * above).sum())
    assert share == pytest.approx(0.5, abs=0.01)
    assert float((outcomes[:, 1] <= found["plain"]).float().mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("base", ["linear", "deterministic", "gaussian"])
def test_weights_come_back_from_a_file_with_as_many_rows_as_there_were(base: str) -> None:
    contexts, outcomes = data(40)
    model = ResidualBootstrap(4, 2, base_models=BaseModels(2, base_width=4, base=base))  # type: ignore[arg-type]
    model.fit_scaling(contexts, outcomes)
    model.fit_rows(contexts, outcomes)
    _assert_restored(
        model, ResidualBootstrap(4, 2, base_models=BaseModels(2, base_width=4, base=base)), contexts
    )  # type: ignore[arg-type]


def test_boosted_quantiles_hold_their_level_and_come_back_from_a_file() -> None:
    contexts, outcomes = data(2000)
    model = BoostedQuantiles(4, 2, level=0.9, rounds=60, learning_rate=0.1)
    model.fit_scaling(contexts, outcomes)
    model.fit_rows(contexts[:1500], outcomes[:1500])
    found = model.sample(contexts[1500:], 1, noise())
    assert found.shape == (500, 1, 2)
    level = (outcomes[1500:] <= found[:, 0]).float().mean(0)
    assert ((level > 0.83) & (level < 0.95)).all()
    again = BoostedQuantiles(4, 2, level=0.9, rounds=60, learning_rate=0.1)
    _assert_restored(model, again, contexts[:50])


def test_a_forest_weighs_rows_by_the_leaves_they_share_with_a_context() -> None:
    """Meinshausen's formula, a row and a tree at a time."""
    contexts, outcomes = data(60)
    model = ForestWeights(4, 2, trees=7, leaf_rows=4, feature_share=1.0)
    model.fit_rows(contexts, outcomes)
    fresh, _ = data(5)
    grown = model._trees
    expected = np.zeros((5, 60))
    for row, places in enumerate(grown.forest.apply(fresh.double().numpy())):
        for tree, leaf in enumerate(places):
            inside = grown.leaves[:, tree] == leaf
            expected[row, inside] += 1 / inside.sum() / 7
    weights = model.row_weights(fresh)
    np.testing.assert_allclose(weights, expected, atol=1e-14)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-14)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_base_of_forests_has_mean_and_standard_deviation_by_the_weights(weighted: bool) -> None:
    contexts, outcomes = data(60)
    outcomes = outcomes + 1e4  # Far from zero, where squares have few digits left.
    model = ForestWeights(4, 2, trees=7, leaf_rows=4)
    model.fit_scaling(contexts, outcomes)
    mass = torch.rand(60, generator=noise()) if weighted else None
    model.fit_rows(contexts, outcomes, mass)
    fresh, _ = data(5)
    weights, known = model.row_weights(fresh), outcomes.double()
    mean = weights @ known
    deviation = (known - mean.unsqueeze(1)).square()
    spread = (weights.unsqueeze(-1) * deviation).sum(1).sqrt()
    location, scale = model.location_and_scale(fresh)
    torch.testing.assert_close(location, mean.float(), rtol=0, atol=2e-3)
    torch.testing.assert_close(scale, spread.float(), rtol=1e-4, atol=0)


def test_a_grown_forest_is_no_callers_memory_and_is_kept_in_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contexts, outcomes = (values.double() for values in data(40))
    ones = torch.ones(40).double()
    mass = ones.clone()
    first, second = ForestWeights(4, 2, trees=3), ForestWeights(4, 2, trees=3)
    first.fit_rows(contexts, outcomes, mass)
    before = first.row_weights(contexts)
    mass[:20] = 100.0
    second.fit_rows(contexts, outcomes, ones)
    np.testing.assert_array_equal(second.row_weights(contexts), before)
    assert second._trees is first._trees  # grown once
    assert copy.deepcopy(second)._trees is first._trees
    monkeypatch.setattr(forest, "_MOST_NODES", 500)
    for trees in range(1, 40):
        other = ForestWeights(4, 2, trees=trees)
        other.fit_rows(contexts[:5], outcomes[:5])
        other.row_weights(contexts[:1])
    assert sum(one.nodes for one in forest._KEPT.values()) <= 500


def test_a_base_of_forests_takes_no_rows_and_rows_that_are_not_finite() -> None:
    contexts, outcomes = data(40)
    model = ForestWeights(4, 2, trees=3)
    model.fit_scaling(contexts, outcomes)
    model.fit_rows(contexts, outcomes)
    assert model.location_and_scale(contexts[:0]).location.shape == (0, 2)
    odd = contexts[:3].clone()
    odd[0, 0], odd[1, 1] = torch.nan, torch.inf
    location = model.location_and_scale(odd).location
    assert location.isnan().all(1).tolist() == [True, True, False]
    program = Newsvendor(c0=0, q0=0, cb=3, rb=0, ch=1, rh=0, z_max=100, num_decisions=2)
    rule = LayerRule(DecisionLayer(program, curvature="saa"), 5)
    (made,), drawn = model.decide([rule], odd, odd.double(), noise())
    assert made.decision.isnan().all(1).tolist() == [True, True, False]
    assert drawn.isnan().all(2).all(1).tolist() == [True, True, False]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    torch.testing.assert_close(
        again.location_and_scale(contexts), model.location_and_scale(contexts)
    )


def test_a_leaf_of_one_row_leaves_a_base_of_forests_a_hundredth_of_the_spread() -> None:
    contexts, outcomes = data(20)
    model = ForestWeights(4, 2, trees=1, leaf_rows=1, feature_share=1.0)
    model.fit_scaling(contexts, outcomes)
    model.fit_rows(contexts, outcomes)
    scale = model.location_and_scale(contexts).scale
    assert (scale >= 0.0099 * model.outcomes.scale).all()
    assert (scale < 0.02 * model.outcomes.scale).any()


def test_a_forest_decides_with_the_weights_and_draws_whole_rows_by_them() -> None:
    contexts, outcomes = data()
    model = ForestWeights(4, 2, trees=20)
    model.fit_scaling(contexts, outcomes)
    model.fit_rows(contexts, outcomes)
    program = Newsvendor(c0=0, q0=0, cb=3, rb=0, ch=1, rh=0, z_max=100, num_decisions=2)
    layer = DecisionLayer(program, curvature="saa")
    known = contexts[:6].double()
    (made,), drawn = model.decide([LayerRule(layer, 5)], contexts[:6], known, noise())
    weights = model.row_weights(contexts[:6])
    above = outcomes.double().unsqueeze(0) > made.decision.unsqueeze(1) + 1e-9
    at_least = outcomes.double().unsqueeze(0) > made.decision.unsqueeze(1) - 1e-9
    assert bool((torch.einsum("bn,bnd->bd", weights, above.double()) <= 0.25 + 1e-12).all())
    assert bool((torch.einsum("bn,bnd->bd", weights, at_least.double()) >= 0.25 - 1e-12).all())
    assert drawn.shape == (6, 5, 2)
    many = model.sample(contexts[:1], 20000, noise())[0].double()
    torch.testing.assert_close(
        many.mean(0), (weights[0].unsqueeze(1) * outcomes.double()).sum(0), atol=0.1, rtol=0
    )
    assert bool((torch.cdist(many[:50], outcomes.double()).amin(1) < 1e-5).all())
    _assert_restored(model, ForestWeights(4, 2, trees=20), contexts[:50])


def test_a_row_of_weight_zero_has_no_part_in_a_forest() -> None:
    contexts, outcomes = data(80)
    weights = (torch.arange(80) % 2).double()
    model, again = (ForestWeights(4, 2, trees=10) for _ in range(2))
    model.fit_rows(contexts, outcomes, weights)
    assert not model.row_weights(contexts)[:, weights == 0].any()
    model.fit_scaling(contexts, outcomes)
    again.fit_scaling(contexts, outcomes)
    _assert_restored(model, again, contexts[:9])


def _assert_restored(model, again, contexts: torch.Tensor) -> None:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    refuse_other_architecture("weights.pt", saved, again)  # type: ignore[arg-type]
    again.load_state_dict(saved)
    torch.testing.assert_close(
        again.eval().sample(contexts, 7, noise()), model.eval().sample(contexts, 7, noise())
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: BaseModels(base="tree"), "base='tree' is unknown"),
        (lambda: ResidualBootstrap(4, 2, law="student"), "law='student' is unknown"),
        (lambda: BaseModels(base_folds=0), "base_folds=0 must be an integer >= 1"),
        (lambda: BoostedQuantiles(4, 2, level=1.0), "level=1.0 must be in"),
        (lambda: BoostedQuantiles(4, 2, rounds=0), "rounds=0 must be an integer >= 1"),
        (lambda: ForestWeights(4, 2, trees=0), "trees=0 must be an integer >= 1"),
        (lambda: ForestWeights(4, 2, feature_share=0.0), "feature_share=0.0 must be in"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_without_scikit_learn_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.ensemble", None)
    with pytest.raises(UserError, match=r"pip install .*\[boosting\]"):
        BoostedQuantiles(4, 2)
    with pytest.raises(UserError, match=r"pip install .*\[forest\]"):
        ForestWeights(4, 2)


def test_none_of_them_has_a_gradient_or_a_density() -> None:
    contexts, outcomes = data(10)
    for model in (ResidualBootstrap(4, 2), BoostedQuantiles(4, 2), ForestWeights(4, 2)):
        with pytest.raises(TypeError):
            model.loss(contexts, outcomes, noise())
        with pytest.raises(TypeError):
            model.weighted_log_density(contexts, outcomes[:, None], outcomes[:, :1], noise())
