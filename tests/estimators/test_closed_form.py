"""Both estimators against the derivative of problems that are solved on paper.

Power: one hour of the power program and a Gaussian forecast N(mu, sigma^2): with M scenarios without end
and bandwidth s = c sigma M^(-1/5) the decision solves, with tau^2 = sigma^2 + s^2,

    (z - mu) + gamma_e = (gamma_s + gamma_e) Phi((mu - z) / tau),

so that dz/dmu = 1 and dz/dtau follows from the implicit function theorem; tau is proportional to
sigma, and the cost of the decision is f(y, z) at the outcome y. Newsvendor, without its quadratic
and cubic terms: the decision is a quantile of N(mu, tau^2), z = mu + tau Phi^-1(cb / (cb + ch)).
"""

import math
from statistics import NormalDist

import pytest
import torch

from diffusion_dfl.estimators import Batch, Reparam, Score
from diffusion_dfl.estimators.base import Estimator
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import GaussianPredictor
from diffusion_dfl.programs import Newsvendor, PowerProgram

SCENARIOS = 100_000
REPLICATES = 12
PROGRAM = PowerProgram(shortage=5.0, excess=0.5, num_decisions=1)
NEWSVENDOR = Newsvendor(c0=0.0, q0=0.0, cb=3.0, rb=0.0, ch=1.0, rh=0.0, z_max=100.0)


def _predictor(mean: float, log_variance: float, antithetic: bool = False) -> GaussianPredictor:
    """A Gaussian that ignores its context: N(2 + 3 mean, 9 exp(log_variance))."""
    predictor = GaussianPredictor(1, 1, width=2, layers=1, antithetic_scenarios=antithetic)
    predictor.fit_scaling(torch.tensor([[0.0], [1.0]]), torch.tensor([[-1.0], [5.0]]))
    head = predictor.network[-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([mean, log_variance]))
    return predictor.eval()


def _closed_form(predictor: GaussianPredictor, scale: float, outcome: float) -> tuple[float, float]:
    """Derivative of f(y, z*) in the two biases of the head."""
    bias = predictor.network[-1].bias
    mean, log_variance = predictor.moments(torch.zeros(1, 1))
    unit = float(predictor.outcomes.scale)
    mu = float(predictor.outcomes.mean) + unit * float(mean.detach())
    sigma = unit * math.exp(0.5 * float(log_variance.detach()))
    tau = sigma * math.sqrt(1 + (scale * SCENARIOS**-0.2) ** 2)

    normal, slope = NormalDist(), PROGRAM.shortage + PROGRAM.excess
    low, high = -slope - tau, slope + tau
    for _ in range(200):  # bisection in q = z - mu
        q = 0.5 * (low + high)
        if q + PROGRAM.excess < slope * normal.cdf(-q / tau):
            low = q
        else:
            high = q
    density = slope * normal.pdf(q / tau)
    in_tau = density * q / tau**2 / (1 + density / tau)

    surplus = mu + q - outcome
    in_decision = surplus + (PROGRAM.excess if surplus > 0 else -PROGRAM.shortage)
    (in_bias,) = torch.autograd.grad(log_variance, bias)
    in_log_variance = in_tau * tau / 2 * float(in_bias[1])
    return in_decision * unit, in_decision * in_log_variance


@pytest.mark.parametrize(("scale", "outcome"), [(1.06, 1.0), (3.0, 9.0)])
@pytest.mark.parametrize("kind", [Reparam, Score])
@pytest.mark.parametrize("antithetic", [False, True], ids=["independent", "antithetic"])
def test_gradient_is_that_of_the_problem_on_paper(
    antithetic: bool, kind: type[Reparam] | type[Score], outcome: float, scale: float
) -> None:
    predictor = _predictor(0.4, -1.0, antithetic)
    expected = torch.tensor(_closed_form(predictor, scale, outcome), dtype=torch.float64)
    layer = DecisionLayer(PROGRAM, scale)
    estimator: Estimator = kind(SCENARIOS, fit_weight=0.0)
    batch = Batch(torch.zeros(1, 1), torch.tensor([[outcome]]))
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for _ in range(REPLICATES):
        predictor.zero_grad()
        estimator(predictor, layer, batch, generator).value.backward()
        gradients.append(predictor.network[-1].bias.grad.double().clone())
    found = torch.stack(gradients)
    error = found.std(0) / math.sqrt(REPLICATES)
    # Single precision of the network's gradient is the floor of the error.
    floor = 1e-6 * expected.abs()
    assert bool(((found.mean(0) - expected).abs() < 3 * error + floor).all()), (
        found.mean(0),
        expected,
        error,
    )
    # The check has teeth: the error is a small part of what is checked.
    assert bool((error < 0.05 * expected.abs()).all())


def test_the_bandwidths_own_dependence_is_more_than_the_error_of_the_check() -> None:
    """At c = 3, M = 10^5 leaving ds/dsigma out would lose 8 % of dz/dsigma."""
    with_it = (3.0 * SCENARIOS**-0.2) ** 2
    assert 1 - 1 / (1 + with_it) == pytest.approx(0.083, abs=0.01)


# Newsvendor


def _quantile_derivative(
    predictor: GaussianPredictor, scale: float, count: int, outcome: float
) -> tuple[float, float]:
    """Derivative of f(y, z*) in the two biases of the head: dz/dmu = 1, dz/dtau the quantile."""
    bias = predictor.network[-1].bias
    mean, log_variance = predictor.moments(torch.zeros(1, 1))
    (in_bias,) = torch.autograd.grad(log_variance, bias)
    unit = float(predictor.outcomes.scale)
    sigma = unit * math.exp(0.5 * float(log_variance.detach()))
    tau = sigma * math.sqrt(1 + (scale * count**-0.2) ** 2)
    share = NEWSVENDOR.cb / (NEWSVENDOR.cb + NEWSVENDOR.ch)
    quantile = NormalDist().inv_cdf(share)
    order = float(predictor.outcomes.mean) + unit * float(mean.detach()) + tau * quantile
    slope = NEWSVENDOR.ch if order > outcome else -NEWSVENDOR.cb
    return slope * unit, slope * quantile * tau / 2 * float(in_bias[1])


def _check_newsvendor(
    kind: type[Reparam] | type[Score], outcome: float, scale: float, count: int, replicates: int
) -> None:
    predictor = _predictor(0.4, -1.0)
    exact = _quantile_derivative(predictor, scale, count, outcome)
    expected = torch.tensor(exact, dtype=torch.float64)
    layer, estimator = DecisionLayer(NEWSVENDOR, scale), kind(count, fit_weight=0.0)
    # Two outcomes, one decision: a pooled batch is the mean of its rows.
    batch = Batch(torch.zeros(2, 1), torch.full((2, 1), outcome), pooled=True)
    generator, gradients = torch.Generator().manual_seed(0), []
    for _ in range(replicates):
        predictor.zero_grad()
        estimator(predictor, layer, batch, generator).value.backward()
        gradients.append(predictor.network[-1].bias.grad.double().clone())
    found = torch.stack(gradients)
    spread, floor = found.std(0), 1e-6 * expected.abs()
    # One solve with all scenarios, and the mean of the solves.
    assert bool(((found[0] - expected).abs() < 3 * spread + floor).all())
    error = spread / math.sqrt(replicates)
    assert bool(((found.mean(0) - expected).abs() < 3 * error + floor).all())
    assert bool((error < 0.02 * expected.abs()).all())


@pytest.mark.parametrize("outcome", [1.0, 9.0])
@pytest.mark.parametrize("kind", [Reparam, Score])
def test_newsvendor_gradient_is_that_of_the_quantile(
    kind: type[Reparam] | type[Score], outcome: float
) -> None:
    _check_newsvendor(kind, outcome, 1.06, SCENARIOS, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "outcome"), [(1.06, 9.0), (3.0, 1.0)])
@pytest.mark.parametrize("kind", [Reparam, Score])
def test_newsvendor_gradient_of_a_million_scenarios_in_one_solve(
    kind: type[Reparam] | type[Score], scale: float, outcome: float
) -> None:
    _check_newsvendor(kind, outcome, scale, 1_000_000, 12)
