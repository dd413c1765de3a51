"""Score function (Eq. 9 and 10): scenarios without a graph, weighted log-densities with one."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from diffusion_dfl.estimators.base import Balance, Batch, Mixed, Mixture, decision_cost
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor, LogDensity, Predictor
from diffusion_dfl.predictors.diffusion import ScenarioPath
from diffusion_dfl.programs.smoothing import bandwidth
from diffusion_dfl.sizes import check_sizes


def score_weights(
    layer: DecisionLayer,
    scenarios: Tensor,
    outcome: Tensor,
    fresh: Tensor | None = None,
    context: Tensor | None = None,
    outcome_context: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean decision cost of a batch and its derivative in the scenario weights.

    The derivative in omega_m is ``w_m = -u' grad_z f(y_m, z*)`` (Eq. 10) plus, where the program is
    smoothed, the part that acts through the bandwidth. ``sum_m omega_m w_m = 0``: the weights are
    centred by construction, since z* is optimal for these very scenarios.

    Args:
        layer: decision layer.
        scenarios: ``(B, M, d_y)``, without graph; the decision is made from them.
        outcome: ``(B, d_y)``; any number of rows where there is one set of scenarios.
        fresh: ``(B, M', d_y)``, scenarios the decision does not know, in which the derivative is
            wanted instead: they enter the program with weight 0, where the derivative is the same
            expression. Their weights are not centred.
        context: ``(B, d_x)``, for programs whose constraints or cost depend on it.
        outcome_context: that of every row of ``outcome``; ``context`` if None.
        row_weights: of the rows of ``outcome`` in the mean (:func:`decision_cost`).

    Returns:
        The cost, a scalar, and the weights ``(B, M)`` or ``(B, M')``, float64; with omega = 1/M,
        ``d cost / d theta = sum_bm w_bm / M * d log p(y_bm) / d theta``.
    """
    count = scenarios.shape[1]
    shares = torch.full(
        scenarios.shape[:2], 1.0 / count, dtype=torch.float64, device=scenarios.device
    )
    known = scenarios.detach()
    if fresh is not None:
        known = torch.cat([known, fresh.detach()], dim=1)
        shares = torch.cat([shares, shares.new_zeros(fresh.shape[:2])], dim=1)
    shares.requires_grad_()
    with torch.enable_grad():
        width = None
        if fresh is not None and layer.smooths:
            # The rule's M is that of the scenarios that decide.
            sample_size = layer.sample_size or count
            width = bandwidth(known.double(), shares, layer.bandwidth_scale, sample_size)
        decision = layer(known, shares, width, context)
        judged = context if outcome_context is None else outcome_context
        cost = decision_cost(layer, outcome, decision, judged, row_weights)
        (weights,) = torch.autograd.grad(cost, shares)
    return cost.detach(), weights if fresh is None else weights[:, count:]


class Score(Mixed):
    """Score-function gradient of the mean decision cost, mixed with the predictor's own loss.

    Args:
        num_scenarios: M a context; take at least 100 (docs/method.md).
        decision_weight: weight of the decision cost; 0 is the twin that only fits on.
        fit_weight: weight of the predictor's own loss, which keeps the density what it was fitted
            to. It anchors the density: negative weights alone would raise the denoising loss
            without bound.
        balance: weights are of: gradient_norms (the two gradients' norms), none (the losses).
        num_gradient_scenarios: fresh scenarios for the gradient; 0 takes those of the decision. The
            decision does not know them; the mean weight of the others is the baseline of each
            (leave-one-out; Kool et al., 2019), where those of the decision are centred already.
        weight_clip: clip weights at this many standard deviations of their context; 0 for none.
            Takes up to .54 of the gradient at 2, .24 at 5 (M = 200), more with M. Clipped weights
            are centred again. Clipping trades noise for bias: docs/method.md has the measured
            cosines. (One bound for a batch would silence the instances with much at stake.)
        trust_region: stop pushing away scenarios beyond this squared error (times d_y); 0 for none.
            1.5 takes up to .36 of an exact density's gradient at d_y = 24, .96 at 1. See
            :meth:`diffusion_dfl.predictors.Predictor.weighted_log_density`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_scenarios: int,
        decision_weight: float = 1.0,
        fit_weight: float = 1.0,
        num_gradient_scenarios: int = 0,
        weight_clip: float = 0.0,
        trust_region: float = 0.0,
        balance: Balance = "gradient_norms",
    ) -> None:
        self.mixture = Mixture(decision_weight, fit_weight, balance)
        for name, value in (("weight_clip", weight_clip), ("trust_region", trust_region)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be a number >= 0")
        check_sizes(num_scenarios=num_scenarios)
        check_sizes(0, num_gradient_scenarios=num_gradient_scenarios)
        if num_gradient_scenarios == 1:
            raise ValueError(
                f"num_gradient_scenarios={num_gradient_scenarios} must be 0 (those of the decision) "
                "or at least 2: the baseline of a scenario is the mean of the others"
            )
        self.num_scenarios = num_scenarios
        self.num_gradient_scenarios = num_gradient_scenarios
        self.weight_clip, self.trust_region = weight_clip, trust_region

    def check_layer(self, layer: DecisionLayer) -> None:
        """Raise ValueError where every weight is zero by construction: it would look like convergence."""
        if self.num_scenarios < 2:
            raise ValueError(
                f"num_scenarios={self.num_scenarios}: the weights of one scenario are zero; take at "
                "least 2, better 100"
            )
        if layer.solver == "cvxpylayers":
            raise ValueError(
                "solver='cvxpylayers' differentiates the exact program in its scenarios only, and so has "
                "no score gradient; use solver='auto', or Reparam with curvature='saa'"
            )
        if not layer.program.kinked or layer.curvature == "paper" or layer.smooths:
            return
        given, mend = f"curvature={layer.curvature!r}", "curvature='convolved'"
        if layer.curvature == "convolved":
            given, mend = "bandwidth_scale=0", "bandwidth_scale above 0 (1.5 is a good start)"
        raise ValueError(
            f"{given}: the optimum of an exact program with kinks sits on scenarios and does not move "
            f"with their weights, so its score gradient is zero; set {mend}, or use Reparam"
        )

    def _surrogate(
        self,
        predictor: Predictor,
        layer: DecisionLayer,
        batch: Batch,
        generator: torch.Generator,
        metrics: dict[str, Tensor],
    ) -> Tensor:
        self.check_layer(layer)
        context = batch.decision_context
        drawn = self._draw(predictor, context, self.num_scenarios, generator)
        fresh = None
        if self.num_gradient_scenarios:
            fresh = self._draw(predictor, context, self.num_gradient_scenarios, generator)
        cost, weights = score_weights(
            layer,
            _scenarios(drawn),
            batch.outcome,
            None if fresh is None else _scenarios(fresh),
            batch.constraint_context,
            batch.outcome_context,
            batch.weights,
        )
        metrics["decision_cost"] = cost
        if fresh is None:
            metrics["score_imbalance"] = weights.mean(1).abs().amax()
        else:
            # Less the mean of the others: (w - mean) M'/(M'-1), whose last factor is below.
            weights = weights - weights.mean(1, keepdim=True)
        weights, metrics["clipped_share"] = self._clip(weights)
        # Of an optimum judged by its own scenarios, M/(M-1) undoes the shrinkage.
        factor = 1.0 / max(weights.shape[1] - 1, 1)
        density = self._density(
            predictor, context, drawn if fresh is None else fresh, factor * weights, generator
        )
        metrics["outside_share"] = density.outside
        return density.value

    def _draw(
        self, predictor: Predictor, context: Tensor, count: int, generator: torch.Generator
    ) -> Tensor | ScenarioPath:
        return predictor.checked_sample(context, count, generator)

    def _density(
        self,
        predictor: Predictor,
        context: Tensor,
        drawn: Tensor | ScenarioPath,
        weights: Tensor,
        generator: torch.Generator,
    ) -> LogDensity:
        return predictor.weighted_log_density(
            context, _scenarios(drawn), weights, generator, self.trust_region
        )

    def _clip(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        if not self.weight_clip:
            return weights, torch.zeros((), device=weights.device)
        bound = self.weight_clip * weights.square().mean(1, keepdim=True).sqrt()
        clipped = (weights.abs() > bound).double().mean()
        bounded = torch.maximum(torch.minimum(weights, bound), -bound)
        return bounded - bounded.mean(1, keepdim=True), clipped


class ScorePath(Score):
    """Score of the sampled reverse path instead of the ELBO: exact, and only for a diffusion.

    ``grad log p(y_0..y_T)`` of the few steps of a stochastic sampler has the score of y_0 as its mean
    given y_0, so the estimate of ``grad E f(y, z)`` at fixed z is unbiased. Arguments are those of
    :class:`Score`.

    The density of a path must be that of the network that drew it, so paths are drawn and judged
    without dropout, in training too; the predictor's own loss keeps it.

    Raises:
        TypeError: at the first call, a predictor that is no diffusion.
        ValueError: at the first call, a sampler with a step that adds no noise.
    """

    def _draw(
        self, predictor: Predictor, context: Tensor, count: int, generator: torch.Generator
    ) -> Tensor | ScenarioPath:
        with _without_dropout(predictor) as diffusion:
            return diffusion.sample_path(context, count, generator)

    def _density(
        self,
        predictor: Predictor,
        context: Tensor,
        drawn: Tensor | ScenarioPath,
        weights: Tensor,
        generator: torch.Generator,
    ) -> LogDensity:
        assert isinstance(drawn, ScenarioPath)
        with _without_dropout(predictor) as diffusion:
            return diffusion.weighted_path_density(context, drawn, weights, self.trust_region)


@contextmanager
def _without_dropout(predictor: Predictor) -> Iterator[DiffusionPredictor]:
    """The diffusion, its denoiser in evaluation mode."""
    if not isinstance(predictor, DiffusionPredictor):
        raise TypeError(f"grad=score_path needs model=diffusion, not {type(predictor).__name__}")
    predictor.check_path_density()
    training = predictor.denoiser.training
    predictor.denoiser.eval()
    try:
        yield predictor
    finally:
        predictor.denoiser.train(training)


def _scenarios(drawn: Tensor | ScenarioPath) -> Tensor:
    return drawn.scenarios if isinstance(drawn, ScenarioPath) else drawn
