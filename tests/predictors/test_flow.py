"""The conditional flow: its density, its samples, and that they are of one another."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors import Backpropagation, FlowPredictor, GaussianPredictor, Predictor


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(context_size: int, outcome_size: int, count: int = 40) -> tuple[Tensor, Tensor]:
    generator = _generator(5)
    contexts = 3 + 2 * torch.randn(count, context_size, generator=generator)
    spread = 0.5 + torch.arange(outcome_size)
    outcomes = 10 + spread * torch.randn(count, outcome_size, generator=generator)
    return contexts, outcomes


def _flow(context_size: int = 3, outcome_size: int = 4, **knobs: float) -> FlowPredictor:
    """Bent: an untrained flow is a Gaussian, so that its splines would go untested."""
    torch.manual_seed(0)
    knobs = {"width": 8, "coupling_width": 8, "layers": 1, **knobs}
    predictor = FlowPredictor(context_size, outcome_size, **knobs)  # type: ignore[arg-type]
    predictor.fit_scaling(*_rows(context_size, outcome_size))
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=_generator(1)))
    return predictor.double().eval()


def _context(size: int, rows: int = 1) -> Tensor:
    return (3 + 2 * torch.randn(rows, size, generator=_generator(9))).double()


SIZES = [(3, 1), (3, 2), (3, 5)]


# The density


@pytest.mark.parametrize("context_size", [1, 3])
def test_the_density_of_one_outcome_integrates_to_one(context_size: int) -> None:
    predictor = _flow(context_size, 1)
    grid = torch.linspace(-40, 40, 20_001, dtype=torch.float64)
    outcomes = predictor.outcomes.inverse(grid.reshape(1, -1, 1))
    with torch.no_grad():
        value, _ = predictor.log_density(_context(context_size), outcomes)
    assert float(torch.trapezoid(value.exp(), grid)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("context_size", [1, 3])
def test_the_density_of_two_outcomes_integrates_to_one(context_size: int) -> None:
    predictor = _flow(context_size, 2)
    with torch.no_grad():
        drawn = predictor.outcomes(predictor.sample(_context(context_size), 4000, _generator()))
        low, high = drawn.amin((0, 1)), drawn.amax((0, 1))
        steps = torch.linspace(-0.7, 1.7, 401, dtype=torch.float64)
        first, second = (low[i] + (high[i] - low[i]) * steps for i in (0, 1))
        grid = torch.stack(torch.meshgrid(first, second, indexing="ij"), -1).reshape(1, -1, 2)
        value, _ = predictor.log_density(_context(context_size), predictor.outcomes.inverse(grid))
        density = value.exp().reshape(401, 401)
        total = torch.trapezoid(torch.trapezoid(density, second), first)
    assert float(total) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(("context_size", "outcome_size"), SIZES)
def test_the_density_of_a_sample_is_that_of_its_noise_less_the_log_determinant(
    context_size: int, outcome_size: int
) -> None:
    """The Jacobian is autograd's, of the sampling direction; the determinant is of the other."""
    predictor = _flow(context_size, outcome_size)
    context = _context(context_size)
    drawn = predictor.sample(context, 6, _generator(3))
    noise = torch.randn(1, 6, outcome_size, generator=_generator(3), dtype=torch.float64)

    def outcome(row: Tensor) -> Tensor:
        return predictor.outcomes(
            predictor.outcomes.inverse(predictor._outcome(context, row.reshape(1, 1, -1)))
        ).flatten()

    value, found = predictor.log_density(context, drawn)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-8)
    for m in range(6):
        jacobian = torch.autograd.functional.jacobian(outcome, noise[0, m])
        normal = -0.5 * (noise[0, m].square().sum() + outcome_size * math.log(2 * math.pi))
        expected = normal - torch.linalg.slogdet(jacobian).logabsdet
        assert float(value[0, m].detach()) == pytest.approx(float(expected), abs=1e-8)


def test_an_untrained_flow_is_a_gaussian_with_independent_coordinates() -> None:
    torch.manual_seed(0)
    predictor = FlowPredictor(3, 4, width=8, coupling_width=8, layers=1).double().eval()
    context = _context(3)
    location, one = (
        predictor._outcome(context, torch.full((1, 1, 4), z, dtype=torch.float64)).flatten()
        for z in (0.0, 1.0)
    )
    normal = torch.distributions.Normal(location, one - location)
    scenarios = torch.randn(1, 9, 4, generator=_generator(), dtype=torch.float64)
    value, _ = predictor.log_density(context, scenarios)
    torch.testing.assert_close(value, normal.log_prob(scenarios).sum(-1))


def test_the_loss_is_the_mean_negative_log_density_a_dimension() -> None:
    predictor = _flow()
    contexts, outcomes = (value.double() for value in _rows(3, 4))
    value, _ = predictor.log_density(contexts, outcomes.unsqueeze(1))
    loss = predictor.loss(contexts, outcomes, _generator())
    torch.testing.assert_close(loss, -value.mean() / 4)


def test_each_of_one_outcomes_conditions_on_its_own_context() -> None:
    predictor = _flow(3, 1)
    contexts = _context(3, 2)
    outcomes = torch.full((2, 5, 1), 10.0).double() + torch.arange(5.0).reshape(1, 5, 1)
    together, _ = predictor.log_density(contexts, outcomes)
    alone = [predictor.log_density(contexts[b : b + 1], outcomes[b : b + 1])[0] for b in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not torch.allclose(together[0], together[1])


# Samples


@pytest.mark.parametrize(("context_size", "outcome_size"), [(3, 1), (3, 2)])
def test_samples_have_the_moments_of_the_density(context_size: int, outcome_size: int) -> None:
    """By importance: a wide Gaussian's points, weighted by the density, have the samples' moments."""
    predictor, count = _flow(context_size, outcome_size), 50_000
    context = _context(context_size)
    drawn = predictor.outcomes(predictor.sample(context, count, _generator()))[0].detach()
    proposal = torch.distributions.Normal(drawn.mean(0), 2 * drawn.std(0))
    noise = torch.randn(count, outcome_size, generator=_generator(2), dtype=torch.float64)
    points = proposal.loc + proposal.scale * noise
    with torch.no_grad():
        value, _ = predictor.log_density(context, predictor.outcomes.inverse(points).unsqueeze(0))
        weight = (value[0] - proposal.log_prob(points).sum(-1)).exp()
        for power in (1, 2):
            terms = weight.unsqueeze(-1) * points**power
            error = ((terms.var(0) + (drawn**power).var(0)) / count).sqrt()
            assert bool(((terms.mean(0) - (drawn**power).mean(0)).abs() < 4 * error).all())


def test_samples_are_of_the_given_generator_alone() -> None:
    predictor, context = _flow(), _context(3, 2)
    state = torch.get_rng_state()
    one, two = (predictor.sample(context, 5, _generator(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one, predictor.sample(context, 5, _generator(2)))


def test_samples_without_a_graph_are_those_with_one_also_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor, context = _flow(), _context(3, 5)
    whole = predictor.sample(context, 4, _generator(), differentiable=True)
    monkeypatch.setattr("diffusion_dfl.predictors.flow._ROWS", 8)  # two contexts at a time
    parts = predictor.sample(context, 4, _generator())
    assert whole.requires_grad and not parts.requires_grad
    assert whole.shape == parts.shape == (5, 4, 4)
    torch.testing.assert_close(whole.detach(), parts)


@pytest.mark.parametrize("size", [0.1, 3.0, 100.0])
def test_whatever_the_weights_samples_and_densities_are_finite_in_single_precision(
    size: float,
) -> None:
    predictor = _flow(3, 5, layers=2, couplings=6).float()
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=_generator(1)))
    context = _context(3, 8).float()
    drawn = predictor.sample(context, 500, _generator())
    assert drawn.dtype == torch.float32
    assert bool(drawn.isfinite().all())
    value, _ = predictor.log_density(context, drawn)
    assert bool(value.isfinite().all())


def test_partial_backpropagation_is_refused() -> None:
    with pytest.raises(ValueError, match="FlowPredictor"):
        _flow().sample(_context(3), 2, _generator(), True, Backpropagation("last", 1))


# Gradients


@pytest.mark.parametrize(("context_size", "outcome_size"), SIZES)
def test_gradients_of_samples_and_densities_are_finite_differences(
    context_size: int, outcome_size: int
) -> None:
    predictor = _flow(context_size, outcome_size)
    context = _context(context_size, 2)
    drawn = predictor.sample(context, 5, _generator())
    weights = torch.randn(2, 5, dtype=torch.float64, generator=_generator(4))
    slopes = torch.randn(2, 5, outcome_size, dtype=torch.float64, generator=_generator(6))

    def pathwise() -> Tensor:
        return (slopes * predictor.sample(context, 5, _generator(), differentiable=True)).sum()

    def density() -> Tensor:
        return predictor.weighted_log_density(context, drawn, weights, _generator()).value

    parameters = list(predictor.parameters())
    directions = [torch.randn(p.shape, generator=_generator(8)).double() for p in parameters]
    for function in (pathwise, density):
        gradients = torch.autograd.grad(function(), parameters, allow_unused=True)
        expected = sum(
            float((g * d).sum())
            for g, d in zip(gradients, directions, strict=True)
            if g is not None
        )
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(step * direction)
                ends.append(float(function().detach()))
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.sub_(step * direction)
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_trust_region_leaves_out_pushed_scenarios_whose_noise_is_far() -> None:
    predictor, context = _flow(), _context(3, 2)
    drawn = predictor.sample(context, 50, _generator())
    noise = torch.randn(2, 50, 4, generator=_generator(), dtype=torch.float64)
    weights = torch.randn(2, 50, dtype=torch.float64, generator=_generator(4))
    beyond = (weights > 0) & (noise.square().sum(-1) > 1.5 * 4)
    assert 0 < int(beyond.sum()) < 50
    found = predictor.weighted_log_density(context, drawn, weights, _generator(), 1.5)
    value, _ = predictor.log_density(context, drawn)
    expected = (weights.masked_fill(beyond, 0.0) * value).sum()
    torch.testing.assert_close(found.value, expected)
    assert float(found.outside) == pytest.approx(float(beyond.double().mean()))
    plain = predictor.weighted_log_density(context, drawn, weights, _generator())
    torch.testing.assert_close(plain.value, (weights * value).sum())
    assert float(plain.outside) == 0.0


# Learning


def _validation_loss(predictor: Predictor, train: tuple[Tensor, Tensor], rows: int) -> float:
    predictor.fit_scaling(*train)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=3e-3)
    generator = _generator(3)
    for _ in range(600):
        index = torch.randint(rows, (128,), generator=generator)
        optimizer.zero_grad()
        predictor.loss(train[0][index], train[1][index], generator).backward()
        optimizer.step()
    predictor.eval()
    with torch.no_grad():
        return float(predictor.loss(*_two_modes(4000, 1), generator))


def _two_modes(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """``y = +-(2 + x) + 0.3 noise`` with even odds."""
    generator = _generator(seed)
    context = torch.rand(rows, 1, generator=generator)
    sign = 2.0 * torch.randint(2, (rows, 1), generator=generator) - 1.0
    return context, sign * (2 + context) + 0.3 * torch.randn(rows, 1, generator=generator)


@pytest.mark.slow
def test_a_flow_learns_two_modes_nearly_to_their_entropy_and_a_gaussian_does_not() -> None:
    train = _two_modes(4000, 0)
    torch.manual_seed(0)
    flow = FlowPredictor(1, 1, width=32, coupling_width=32)
    found = _validation_loss(flow, train, 4000)
    gaussian = _validation_loss(GaussianPredictor(1, 1, width=32), train, 4000)
    # Standardising adds -log(scale) to the entropy of a mode and of the choice between two.
    entropy = math.log(2) + math.log(0.3) + 0.5 * math.log(2 * math.pi * math.e)
    entropy -= float(flow.outcomes.scale.log())
    assert entropy - 0.05 < found < entropy + 0.15
    assert gaussian > found + 0.5
    draws = flow.sample(torch.tensor([[0.5]]), 4000, _generator())[0, :, 0]
    assert float((draws.abs() < 1.2).double().mean()) < 0.03
    assert float((draws > 0).double().mean()) == pytest.approx(0.5, abs=0.08)


# Bad input


@pytest.mark.parametrize(
    "knob", [{"bins": 1}, {"couplings": -1}, {"coupling_width": 0}, {"layers": 0}, {"width": 0}]
)
def test_sizes_out_of_range_are_refused(knob: dict[str, int]) -> None:
    ((name, value),) = knob.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be an integer >= "):
        FlowPredictor(2, 2, **knob)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 5, 1), (2, 4), (1, 5, 4), (2, 5, 3)])
def test_outcomes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"outcome has shape .*; expected \(2, M, 4\)"):
        _flow().log_density(_context(3, 2), torch.zeros(shape).double())


def test_no_scenarios_are_no_scenarios() -> None:
    assert _flow().sample(_context(3, 2), 0, _generator()).shape == (2, 0, 4)


def test_torch_maps_over_samples() -> None:
    predictor, context = _flow(), _context(3, 2)

    def drawn(one: Tensor) -> Tensor:
        return predictor.sample(one.unsqueeze(0), 6, _generator(), differentiable=True)[0]

    found = torch.func.vmap(drawn, randomness="same")(context)
    torch.testing.assert_close(found, torch.stack([drawn(one) for one in context]))


def test_a_scenario_without_a_say_may_be_anywhere() -> None:
    predictor, context = _flow().float(), _context(3, 2).float()
    drawn = predictor.sample(context, 5, _generator())
    weights = torch.ones(2, 5)
    weights[0, 1] = 0.0
    expected = predictor.weighted_log_density(context, drawn, weights, _generator())
    drawn[0, 1] = 1e30
    found = predictor.weighted_log_density(context, drawn, weights, _generator())
    torch.testing.assert_close(found.value, expected.value)
