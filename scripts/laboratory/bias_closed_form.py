"""Clip and trust region of the score where the gradient is known: a Gaussian on the power program.

With M scenarios without end and bandwidth s = c sigma M^(-1/5), an hour forecast as N(mu, sigma^2) is
decided by (docs/method.md, tests/estimators/test_closed_form.py)

    (z - mu) + gamma_e = Gamma Phi((mu - z)/tau),    tau^2 = sigma^2 + s^2,    Gamma = gamma_s + gamma_e,

so that dz/dmu = 1, dz/dtau = b q / (1 + b) with q = (z - mu)/tau and b = Gamma phi(q)/tau, and d tau /
d log sigma = tau. Ramps are slack: hours are independent.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion_dfl.estimators import Score, score_weights
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import GaussianPredictor
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.programs.smoothing import normal_cdf, normal_pdf

BATCH = 64
# Scenarios times hours of one solve; the solver holds some twenty copies.
_VALUES = 2_000_000


@dataclass(frozen=True)
class Rule:
    """A bound on what a scenario counts, for any number of scenarios and hours.

    Attributes:
        clip: c of the bound on a weight, in standard deviations of the weights; 0 for none.
        clip_kind: ``fixed``: c; ``root log``: c sqrt(log M); ``fourth root``: c M^(1/4);
            ``quantile``: none, the largest ``c`` of the weights (a share of them, or a number of
            them from 1 on) get the size of the next.
        region: ``trust_region``; 0 for none, None for the bound that grows with M.
    """

    clip: float = 0.0
    clip_kind: Literal["fixed", "root log", "fourth root", "quantile"] = "fixed"
    region: float | None = 0.0

    @property
    def name(self) -> str:
        parts = []
        if self.clip:
            parts.append(
                {
                    "fixed": f"clip {self.clip:g}",
                    "root log": f"clip {self.clip:g} sqrt(log M)",
                    "fourth root": f"clip {self.clip:g} M^(1/4)",
                    "quantile": f"largest {self.clip:g} to the next"
                    if self.clip >= 1
                    else f"clip at the {1 - self.clip:.0%} quantile",
                }[self.clip_kind]
            )
        if self.region is None:
            parts.append("region chi2(M)")
        elif self.region:
            parts.append(f"region {self.region:g}")
        return ", ".join(parts) or "none"

    def trust_region(self, scenarios: int, hours: int) -> float:
        return chi_square_region(scenarios, hours) if self.region is None else self.region

    def clipped(self, weights: Tensor) -> Tensor:
        """Weights ``(B, M)`` as the estimator clips them, centred."""
        count = weights.shape[1]
        if self.clip_kind == "quantile":
            above = math.ceil(self.clip if self.clip >= 1 else self.clip * count)
            bound = weights.abs().topk(above + 1, dim=1).values[:, -1:]
            bounded = torch.maximum(torch.minimum(weights, bound), -bound)
            return bounded - bounded.mean(1, keepdim=True)
        growth = {"fixed": 1.0, "root log": math.log(count) ** 0.5, "fourth root": count**0.25}
        return Score(count, weight_clip=self.clip * growth[self.clip_kind])._clip(weights)[0]


def _softplus_inverse(value: float) -> float:
    return value + math.log(-math.expm1(-value))


def chi_square_region(scenarios: int, hours: int) -> float:
    """``1 + 2 sqrt(x/d) + 2 x/d``, ``x = log M``: at most one of M own scenarios is beyond it.

    ``P(chi^2_d >= d + 2 sqrt(d x) + 2 x) <= exp(-x)`` (Laurent and Massart, 2000, Lemma 1).
    """
    ratio = math.log(scenarios) / hours
    return 1.0 + 2.0 * math.sqrt(ratio) + 2.0 * ratio


NONE = Rule()
RULES: tuple[Rule, ...] = (
    NONE,
    *(Rule(clip) for clip in (2.0, 3.0, 5.0, 8.0, 10.0)),
    Rule(3.0, "root log"),
    Rule(1.0, "fourth root"),
    Rule(2.0, "fourth root"),
    Rule(0.01, "quantile"),
    Rule(1.0, "quantile"),
    *(Rule(region=region) for region in (1.5, 3.0, 6.0, None)),
)


@dataclass(frozen=True)
class Case:
    """A Gaussian forecast and what happened.

    Attributes:
        name: of the case.
        surprises: of the outcome, in standard deviations from the forecast's mean, an hour each.
        sigma: standard deviation of the forecast, in units of load; .055 is the real load's.
        bandwidth_scale: c.
    """

    name: str
    surprises: tuple[float, ...]
    sigma: float = 0.055
    bandwidth_scale: float = 1.5

    @property
    def hours(self) -> int:
        return len(self.surprises)

    @property
    def program(self) -> PowerProgram:
        return PowerProgram(num_decisions=self.hours, ramp=math.inf)

    def predictor(self, rows: int) -> GaussianPredictor:
        """N(0, sigma^2) in all contexts, which are unit vectors: weights that are those of a row."""
        predictor = GaussianPredictor(rows, self.hours, layers=0)
        predictor.outcomes.scale.fill_(self.sigma)
        head = predictor.network[-1]
        assert isinstance(head, torch.nn.Linear)
        torch.nn.init.zeros_(head.weight)
        # The raw value whose bounded log-variance is 0.
        capped = predictor.min_log_variance + _softplus_inverse(-predictor.min_log_variance)
        raw = predictor.max_log_variance - _softplus_inverse(predictor.max_log_variance - capped)
        with torch.no_grad():
            head.bias[: self.hours] = 0.0
            head.bias[self.hours :] = raw
        return predictor.eval()

    def outcome(self, rows: int) -> Tensor:
        return (torch.tensor(self.surprises) * self.sigma).expand(rows, -1)

    def truth(self, scenarios: int) -> Tensor:
        """Gradient of f(y, z*) in (mu/sigma, log sigma) of every hour, ``(d, 2)`` float64."""
        program, sigma = self.program, self.sigma
        slope = program.hinge_slope
        tau = sigma * math.sqrt(1 + (self.bandwidth_scale * scenarios**-0.2) ** 2)
        low, high = torch.tensor(-slope - tau).double(), torch.tensor(slope + tau).double()
        for _ in range(200):  # bisection in z - mu
            z = 0.5 * (low + high)
            below = z + program.excess < slope * normal_cdf(-z / tau)
            low, high = torch.where(below, z, low), torch.where(below, high, z)
        density = slope * normal_pdf(z / tau) / tau
        surplus = z - torch.tensor(self.surprises, dtype=torch.float64) * sigma
        in_decision = surplus + torch.where(surplus > 0, program.excess, -program.shortage)
        in_tau = float(density * z / tau / (1 + density))
        in_moments = torch.tensor([sigma, in_tau * tau], dtype=torch.float64)
        return in_decision.unsqueeze(1) * in_moments


CASES = (
    Case("d = 1, surplus", (0.0,)),
    Case("d = 1, shortage", (6.0,)),
    Case("d = 24, surplus", (0.0,) * 24),
    Case("d = 24, one hour short", (6.0,) + (0.0,) * 23),
)


def gradients(
    case: Case, scenarios: int, rules: tuple[Rule, ...], rows: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Gradients in (mu/sigma, log sigma) of every hour, rows draws of one context.

    The density is that of :class:`~diffusion_dfl.estimators.Score`, a test compares; scenarios,
    decisions and weights are shared by the rules, and by the pathwise gradient.

    Returns:
        By rule ``(rules, rows, d, 2)`` and pathwise ``(rows, d, 2)``, float64.
    """
    generator = torch.Generator().manual_seed(seed)
    found, pathwise = [], []
    for count in _parts(rows, scenarios * case.hours):
        predictor, contexts = case.predictor(count), torch.eye(count)
        layer = DecisionLayer(case.program, case.bandwidth_scale)
        outcome = case.outcome(count)
        drawn = predictor.sample(contexts, scenarios, generator, differentiable=True)
        cost = case.program.cost(outcome.double(), layer(drawn)).sum()
        pathwise.append(_by_hour(predictor, cost, case.hours))
        _, weights = score_weights(layer, drawn.detach(), outcome)
        # Of the mean over rows; here each counts for itself.
        weights = count * weights / (scenarios - 1)
        parts = []
        for rule in rules:
            region = rule.trust_region(scenarios, case.hours)
            clipped = rule.clipped(weights)
            density = predictor.weighted_log_density(
                contexts, drawn.detach(), clipped, generator, region
            )
            parts.append(_by_hour(predictor, density.value, case.hours))
        found.append(torch.stack(parts))
    return torch.cat(found, 1), torch.cat(pathwise)


def _parts(rows: int, values: int) -> Iterator[int]:
    size = max(min(rows, _VALUES // values, 1000), 1)
    for start in range(0, rows, size):
        yield min(size, rows - start)


def _by_hour(predictor: GaussianPredictor, value: Tensor, hours: int) -> Tensor:
    """Gradient in (mu/sigma, log sigma), ``(rows, d, 2)``, from that in the weights of the head."""
    head = predictor.network[-1]
    assert isinstance(head, torch.nn.Linear)
    (weights,) = torch.autograd.grad(value, head.weight)
    # The bounds of the log-variance.
    moments = predictor.moments(torch.zeros(1, predictor.context_size))
    (slope,) = torch.autograd.grad(torch.cat(moments, 1).sum(), head.bias)
    in_moments = (weights / slope.unsqueeze(1)).double().T.unflatten(1, (2, hours))
    # log sigma^2 = 2 log sigma.
    return in_moments.transpose(1, 2) * torch.tensor([1.0, 2.0], dtype=torch.float64)


def summary(found: Tensor, truth: Tensor) -> dict[str, float]:
    """How draws ``(R, d, 2)`` agree with the truth ``(d, 2)``.

    Returns:
        ``mu``, ``sigma``: length of the mean along the truth in the parameters of either kind, 1 for
        the truth, ``_se`` their standard errors; ``bias``: ``sqrt`` of the squared distance from 1
        of both, weighed by the truth; ``noise``: standard deviation of a draw in lengths of the
        truth; ``cosine``: of the mean over a batch of 64 contexts with the truth, expected;
        ``error``: its root mean square distance from the truth, in lengths of that.
    """
    count, squares = len(found), truth.square().sum(0)
    ratios = (found * truth).sum(1) / squares
    ratio, error = ratios.mean(0), ratios.std(0) / math.sqrt(count)
    share = squares / squares.sum()
    variance = float(found.var(0).sum() / squares.sum())
    bias = float((share * (ratio - 1).square()).sum())
    batch = variance / BATCH
    return {
        "mu": float(ratio[0]),
        "mu_se": float(error[0]),
        "sigma": float(ratio[1]),
        "sigma_se": float(error[1]),
        "bias": math.sqrt(bias),
        "noise": math.sqrt(variance),
        "cosine": float((share * ratio).sum() / ((share * ratio.square()).sum() + batch).sqrt()),
        "error": math.sqrt(bias + batch),
    }


def rows_of(
    case: Case, scenarios: int, rules: tuple[Rule, ...], draws: int
) -> list[dict[str, Any]]:
    """A row a rule, and one for the pathwise gradient on the same scenarios."""
    truth = case.truth(scenarios)
    found, pathwise = gradients(case, scenarios, rules, draws, seed=scenarios)
    named = [(rule.name, part) for rule, part in zip(rules, found, strict=True)]
    head = {"case": case.name, "d": case.hours, "M": scenarios}
    return [
        head | {"rule": name} | summary(part, truth)
        for name, part in [*named, ("reparam", pathwise)]
    ]
