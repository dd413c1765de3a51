"""Predictors on a base: what gives outcomes their location and scale, and what they learn."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors import (
    BaseModels,
    DiffusionPredictor,
    FlowPredictor,
    GaussianPredictor,
    PolicyNetwork,
    Predictor,
    ResidualBase,
    Scaling,
    residual_base,
)
from tests.configs import by_keys

Make = Callable[..., Predictor]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _contexts(rows: int = 6) -> Tensor:
    return torch.randn(rows, 3, generator=_generator(1))


def _outcomes(contexts: Tensor, count: int = 5) -> Tensor:
    """Around 40 with a spread of 3."""
    noise = torch.randn(len(contexts), count, 2, generator=_generator(2))
    return 40 + 2 * contexts[:, None, :2] + 3 * noise


def _fit_scalings(predictor: Predictor) -> None:
    """As for members that are fitted: a location and a scale in the outcome's units."""
    contexts = _contexts(50)
    outcomes = _outcomes(contexts)[:, 0]
    predictor.fit_scaling(contexts, outcomes)
    assert predictor.base is not None
    for number, member in enumerate(predictor.base.members):
        assert isinstance(member, Predictor)
        member.fit_scaling(contexts, outcomes * (1 + 0.1 * number))


def _predictor(make: Make, folds: int = 3, **knobs: object) -> Predictor:
    torch.manual_seed(0)
    sizes = {"width": 8, "layers": 1, "base_width": 8, "base_layers": 1}
    if make is DiffusionPredictor:
        sizes |= {"num_diffusion_steps": 20, "num_sampling_steps": 4}
    predictor = by_keys(
        make, 3, 2, outcome_scaling="residual", base_folds=folds, **{**sizes, **knobs}
    )
    _fit_scalings(predictor)
    return predictor.eval()


def _moved_head(predictor: GaussianPredictor | Predictor) -> Predictor:
    """Away from the zeros it starts with."""
    assert isinstance(predictor, GaussianPredictor)
    with torch.no_grad():
        for parameter in predictor.network[-1].parameters():
            parameter.normal_(0.0, 0.3, generator=_generator(3))
    return predictor


KINDS = [GaussianPredictor, FlowPredictor, DiffusionPredictor]


# The base


def test_new_rows_have_the_mean_location_and_the_root_of_the_mean_squared_scale() -> None:
    base = _predictor(GaussianPredictor).base
    assert base is not None
    context = _contexts()
    found = base(context)
    for row in range(len(context)):
        locations, scales = [], []
        for member in base.members:
            of_row = member.location_and_scale(context[row : row + 1])
            locations.append(of_row.location[0].tolist())
            scales.append(of_row.scale[0].tolist())
        for size in range(2):
            mean = sum(location[size] for location in locations) / 3
            square = sum(scale[size] ** 2 for scale in scales) / 3
            assert float(found.location[row, size]) == pytest.approx(mean, rel=1e-6)
            assert float(found.scale[row, size]) == pytest.approx(math.sqrt(square), rel=1e-6)


def test_a_row_of_a_fold_has_the_location_and_scale_of_the_member_of_that_number() -> None:
    base = _predictor(GaussianPredictor).base
    assert base is not None
    context, fold = _contexts(), torch.tensor([2, 0, 1, 1, 0, 2])
    found = base(context, fold)
    for row, number in enumerate(fold.tolist()):
        expected = base.members[number].location_and_scale(context[row : row + 1])
        torch.testing.assert_close(found.rows(slice(row, row + 1)), expected)


def test_a_base_of_one_member_has_no_folds() -> None:
    base = _predictor(GaussianPredictor, folds=1).base
    assert base is not None and base.folds == 1
    (member,) = base.members
    torch.testing.assert_close(base(_contexts()), member.location_and_scale(_contexts()))


def test_members_start_from_weights_of_their_own() -> None:
    base = residual_base(3, 2, BaseModels(2, 8, 1))
    first, second = (member.network[0].weight for member in base.members)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("make", KINDS)
def test_a_base_predicts_without_dropout_in_training_and_fresh_from_a_file(make: Make) -> None:
    """Weights that are loaded come into a base nobody has fitted, and so put into evaluation mode."""
    saved = _predictor(make, base_dropout=0.5).state_dict()
    loaded = by_keys(
        make, 3, 2, **_sizes(make), outcome_scaling="residual", base_folds=3, base_dropout=0.5
    )
    loaded.load_state_dict(saved)
    assert loaded.base is not None
    for training in (True, False):
        loaded.train(training)
        assert not any(member.training for member in loaded.base.modules())
        torch.testing.assert_close(loaded.base(_contexts()), loaded.base(_contexts()))
        assert loaded.training is training


def _sizes(make: Make) -> dict[str, int]:
    sizes = {"width": 8, "layers": 1, "base_width": 8, "base_layers": 1}
    if make is DiffusionPredictor:
        sizes |= {"num_diffusion_steps": 20, "num_sampling_steps": 4}
    return sizes


def test_what_has_no_location_and_scale_is_no_member() -> None:
    with pytest.raises(TypeError, match=r"needs location_and_scale.*PolicyNetwork has none"):
        ResidualBase([PolicyNetwork(3, 2)])


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("folds", [0, -1])
def test_fewer_than_one_fold_is_refused_by_name(make: Make, folds: int) -> None:
    with pytest.raises(ValueError, match=f"base_folds={folds} must be an integer >= 1"):
        by_keys(make, 3, 2, outcome_scaling="residual", base_folds=folds)


@pytest.mark.parametrize("make", KINDS)
def test_an_unknown_scaling_is_refused_by_name(make: Make) -> None:
    with pytest.raises(ValueError, match="outcome_scaling='local' is unknown; choose global or re"):
        make(3, 2, outcome_scaling="local")


@pytest.mark.parametrize("make", KINDS)
def test_keys_of_the_base_make_that_base_and_leave_the_network_on_it(make: Make) -> None:
    torch.manual_seed(0)
    plain = make(3, 2, width=8, layers=1)
    assert plain.base is None
    models = BaseModels(2, base_width=5, base_layers=3, base_dropout=0.25, base_activation="relu")
    torch.manual_seed(0)
    residual = make(3, 2, width=8, layers=1, outcome_scaling="residual", base_models=models)
    assert residual.base is not None and residual.base.folds == 2
    for member in residual.base.members:
        assert isinstance(member, GaussianPredictor)
        assert [one.out_features for one in member.network[::3]] == [5, 5, 5, 4]
        assert isinstance(member.network[1], torch.nn.ReLU)
        assert member.network[2].p == 0.25
    own = {name for name, _ in residual.named_parameters() if not name.startswith("base.")}
    assert own == {name for name, _ in plain.named_parameters()}


# What stands on it


@pytest.mark.parametrize("make", KINDS)
def test_standardised_and_raw_are_inverse_and_of_the_base(make: Make) -> None:
    predictor, contexts = _predictor(make), _contexts()
    outcomes = _outcomes(contexts)
    assert predictor.base is not None
    location, scale = predictor.base(contexts)
    found = predictor.standardised(contexts, outcomes)
    torch.testing.assert_close(found, (outcomes - location[:, None]) / scale[:, None])
    torch.testing.assert_close(predictor.raw(contexts, found), outcomes, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("make", KINDS)
def test_the_base_gets_no_gradient(make: Make) -> None:
    predictor, contexts = _predictor(make), _contexts()
    outcomes = _outcomes(contexts)
    drawn = predictor.sample(contexts, 4, _generator(), differentiable=True)
    density = predictor.weighted_log_density(
        contexts, outcomes, torch.ones(outcomes.shape[:2]), _generator()
    )
    loss = predictor.loss(contexts, outcomes[:, 0], _generator())
    (drawn.sum() + density.value + loss).backward()
    assert predictor.base is not None
    for name, parameter in predictor.named_parameters():
        assert parameter.requires_grad == (not name.startswith("base.")), name
        assert (parameter.grad is None) == name.startswith("base."), name


def test_a_residual_gaussian_starts_as_the_law_of_its_base() -> None:
    predictor, contexts = _predictor(GaussianPredictor), _contexts()
    assert isinstance(predictor, GaussianPredictor) and predictor.base is not None
    torch.testing.assert_close(predictor.location_and_scale(contexts), predictor.base(contexts))


@pytest.mark.parametrize(("low", "high"), [(-9.0, 3.0), (-1.0, 0.5), (-20.0, 0.01)])
def test_it_does_whatever_the_bounds_of_its_own_variance(low: float, high: float) -> None:
    predictor = _predictor(GaussianPredictor, min_log_variance=low, max_log_variance=high)
    assert isinstance(predictor, GaussianPredictor)
    mean, log_variance = predictor.moments(_contexts())
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    torch.testing.assert_close(log_variance, torch.zeros_like(mean), rtol=0, atol=1e-5)


def test_its_scenarios_have_the_moments_it_says() -> None:
    predictor = _moved_head(_predictor(GaussianPredictor))
    assert isinstance(predictor, GaussianPredictor)
    contexts, count = _contexts(2), 100_000
    location, scale = (value.detach().double() for value in predictor.location_and_scale(contexts))
    drawn = predictor.sample(contexts, count, _generator()).double()
    assert bool(((drawn.mean(1) - location).abs() < 4 * scale / math.sqrt(count)).all())
    assert bool(((drawn.std(1) / scale - 1).abs() < 4 / math.sqrt(2 * count)).all())


def test_its_loss_is_the_density_of_the_normal_it_says_in_units_of_the_base() -> None:
    predictor, contexts = _moved_head(_predictor(GaussianPredictor)), _contexts()
    assert isinstance(predictor, GaussianPredictor) and predictor.base is not None
    outcomes = _outcomes(contexts)[:, 0]
    normal = torch.distributions.Normal(*predictor.location_and_scale(contexts))
    raw = -normal.log_prob(outcomes).mean()
    units = predictor.base(contexts).scale.log().mean()
    found = predictor.loss(contexts, outcomes, _generator())
    assert float(found.detach()) == pytest.approx(float((raw - units).detach()), rel=1e-5)


@pytest.mark.parametrize("make", [GaussianPredictor, FlowPredictor])
@pytest.mark.parametrize("under", [False, True])
def test_the_weighted_density_is_that_of_raw_outcomes_by_differences(
    make: Make, under: bool
) -> None:
    """Along its gradient, in double precision; in raw units up to the constant of the base's scale."""
    predictor, contexts = _predictor(make), _contexts()
    with torch.no_grad():
        for name, parameter in predictor.named_parameters():
            if not name.startswith("base."):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=_generator(4)))
    predictor = predictor.double()
    contexts = contexts.double()
    scenarios = _outcomes(contexts).double()
    weights = torch.randn(scenarios.shape[:2], generator=_generator(5)).double()
    assert predictor.base is not None
    fold = torch.arange(len(contexts)) % predictor.base.folds
    scaling = predictor.base(contexts, fold) if under else predictor.base(contexts)
    seen = predictor.under(scaling) if under else predictor
    parameters = [one for one in predictor.parameters() if one.requires_grad]

    def density() -> Tensor:
        """``sum w log p(y)`` of raw outcomes, less what does not depend on the weights."""
        if isinstance(seen, GaussianPredictor):
            normal = torch.distributions.Normal(
                *(v[:, None] for v in seen.location_and_scale(contexts))
            )
            return (weights * normal.log_prob(scenarios).sum(-1)).sum()
        assert isinstance(seen, FlowPredictor)
        location, scale = (value[:, None] for value in scaling)
        noise, determinant = seen._noise(contexts, (scenarios - location) / scale)
        value = determinant - 0.5 * noise.square().sum(-1) - scale.log().sum(-1)
        return (weights * value).sum()

    found = seen.weighted_log_density(contexts, scenarios, weights, _generator()).value
    gradients = torch.autograd.grad(found, parameters)
    size = float(torch.cat([one.flatten() for one in gradients]).norm())

    def moved(step: float) -> float:
        with torch.no_grad():
            for parameter, move in zip(parameters, gradients, strict=True):
                parameter.add_(move, alpha=step / size)
            value = float(density())
            for parameter, move in zip(parameters, gradients, strict=True):
                parameter.add_(move, alpha=-step / size)
        return value

    assert size == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-6)


# Rows whose scaling is known


@pytest.mark.parametrize("make", KINDS)
def test_under_a_scaling_rows_are_standardised_by_it_whatever_context_is_seen(make: Make) -> None:
    predictor, contexts = _predictor(make), _contexts()
    outcomes = _outcomes(contexts)
    scaling = Scaling(torch.full((6, 2), 7.0), torch.full((6, 2), 0.5))
    view = predictor.under(scaling)
    for seen in (contexts, contexts + 3.0):
        torch.testing.assert_close(view.standardised(seen, outcomes), (outcomes - 7.0) / 0.5)
        torch.testing.assert_close(view.raw(seen, outcomes), 7.0 + 0.5 * outcomes)
    # The first of the rows, of a batch that shares one decision.
    assert view.raw(contexts[:1], outcomes[:1]).shape == (1, 5, 2)
    assert predictor.scaling(contexts).location.mean() > 30
    assert type(view) is type(predictor)


@pytest.mark.parametrize("make", KINDS)
def test_under_shares_weights_gradients_and_modes(make: Make) -> None:
    predictor, contexts = _predictor(make, dropout=0.3), _contexts()
    view = predictor.under(Scaling(torch.zeros(6, 2), torch.ones(6, 2)))
    for one, other in zip(view.parameters(), predictor.parameters(), strict=True):
        assert one is other
    for one, other in zip(view.buffers(), predictor.buffers(), strict=True):
        assert one is other
    assert view.state_dict().keys() == predictor.state_dict().keys()
    view.loss(contexts, _outcomes(contexts)[:, 0], _generator()).backward()
    assert any(parameter.grad is not None for parameter in predictor.parameters())
    predictor.train()
    submodules = [module for module in view.modules() if isinstance(module, torch.nn.Dropout)]
    assert any(module.training for module in submodules)


@pytest.mark.parametrize("make", KINDS)
def test_under_the_scaling_it_has_anyway_nothing_changes(make: Make) -> None:
    predictor, contexts = _predictor(make), _contexts()
    outcomes = _outcomes(contexts)
    assert predictor.base is not None
    view = predictor.under(predictor.base(contexts))
    weights = torch.randn(outcomes.shape[:2], generator=_generator(3))
    for one, other in (
        (view.sample(contexts, 4, _generator()), predictor.sample(contexts, 4, _generator())),
        (
            view.loss(contexts, outcomes[:, 0], _generator()).detach(),
            predictor.loss(contexts, outcomes[:, 0], _generator()).detach(),
        ),
        (
            view.weighted_log_density(contexts, outcomes, weights, _generator()).value.detach(),
            predictor.weighted_log_density(
                contexts, outcomes, weights, _generator()
            ).value.detach(),
        ),
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("make", KINDS)
def test_a_copy_of_a_residual_predictor_has_a_base_of_its_own(make: Make) -> None:
    predictor = _predictor(make)
    other = copy.deepcopy(predictor)
    assert other.base is not None and predictor.base is not None
    with torch.no_grad():
        for parameter in other.base.parameters():
            parameter.add_(1.0)
    assert not torch.equal(other.base(_contexts()).location, predictor.base(_contexts()).location)


def test_a_base_that_nothing_stands_on_is_told(caplog: pytest.LogCaptureFixture) -> None:
    GaussianPredictor(3, 2, base_models=BaseModels(base="forest"))
    assert "base=forest changes nothing with outcome_scaling=global" in caplog.text
    caplog.clear()
    GaussianPredictor(3, 2, outcome_scaling="residual", base_models=BaseModels(base="forest"))
    GaussianPredictor(3, 2)
    assert not caplog.text
