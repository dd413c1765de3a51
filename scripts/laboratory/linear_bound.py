"""Proposition 5.1 on the linear-Gaussian model, in the second-moment form that has a meaning."""

from dataclasses import dataclass

import torch
from torch import Tensor

from laboratory.linear_gaussian import LinearGaussianModel

# The largest (u - 1)^2 / ((u + 1) (u log u - u + 1)) over u > 0, near u = 0.223, rounded up.
TRIANGULAR_CONSTANT = 1.11592


@dataclass(frozen=True)
class SecondMomentBound:
    """Both sides of Proposition 5.1 in second-moment form; ``(N,)`` each.

    The proposition asks for a bound B of the joint score s over all latents. The part of s of
    step t, (d mu_theta / d theta)^T (y_{t-1} - mu_theta(y_t)) / sigma_t^2, is linear in y_{t-1}:
    with Gaussian transitions B is infinite. What holds, with q = q(z | y_0), p = p(z | y_0)::

        |E_p s - E_q s| <= int |s| |p - q|
                        <= sqrt(int |s|^2 (p + q)) sqrt(int (p - q)^2 / (p + q))

    by Cauchy-Schwarz. The last integral, the triangular discrimination, is the f-divergence of
    (u - 1)^2 / (u + 1), u = q/p, and KL(q || p) that of u log u - u + 1. Both functions are
    non-negative, so that the largest ratio of the first to the second over u, 1.1159 near
    u = 0.22, bounds the ratio of the divergences: the integral is at most 1.1159 KL. (No smaller
    constant holds for all p and q. The Hellinger distance in place of the triangular
    discrimination gives 2.) E_p s - E_q s stays where a constant is taken from s; half the sum of
    the two means makes the second moments smallest::

        |E_p s - E_q s|^2 <= 1.1159 (E_q |s|^2 + E_p |s|^2 - |E_q s + E_p s|^2 / 2) KL(q || p).

    Attributes:
        difference: |grad log p(y_0 | x) - grad ELBO(y_0 | x)|.
        length: |grad log p(y_0 | x)|.
        divergence: KL(q || p).
        loose: sqrt(2 (E_q |s|^2 + E_p |s|^2) KL).
        sharp: the same with 1.1159 in place of 2.
        centred: the last display's root.
    """

    difference: Tensor
    length: Tensor
    divergence: Tensor
    loose: Tensor
    sharp: Tensor
    centred: Tensor


def score_moments(model: LinearGaussianModel, outcomes: Tensor) -> tuple[Tensor, Tensor]:
    """E |s|^2 of the joint score s = grad log p(y_0, y_1..y_T | x) under q and under p.

    The part of step t is ``g_t^2 |e|^2 (|y_t|^2 + |x|^2 + 1) / sigma_t^4`` with the step's
    noise e = y_{t-1} - M_t y_t + g_t (B_t x + c_t). Given y_0, (e, y_t) is Gaussian under
    both, and E |e|^2 |y|^2 = E |e|^2 E |y|^2 + 2 |C|_F^2 + 4 E[e]^T C E[y], C = Cov(e, y).

    Returns:
        ``(N,)`` under q(. | y_0) and ``(N,)`` under p(. | y_0).
    """
    chain, size = model.chain, outcomes.shape[1]
    scale = chain.gain[:, None, None] / chain.variance[:, None, None]
    affine = 1 + model.contexts.square().sum(1)

    def moment(
        residual: Tensor, spread: Tensor, state: Tensor, wide: Tensor, cross: Tensor
    ) -> Tensor:
        error = residual.square().sum(2) + spread[:, None]
        length = state.square().sum(2) + wide[:, None] + affine
        mixed = 4 * ((residual @ cross) * state).sum(2)
        mixed = mixed + 2 * cross.square().sum((1, 2))[:, None]
        return (scale.squeeze(2) ** 2 * (error * length + mixed)).sum(0)

    pulled, precision = model.pull_back(outcomes)
    variance = chain.variance[:, None, None]
    covariance = model.covariances[1:]
    under_p = moment(
        variance * pulled[:-1],
        size * chain.variance - chain.variance**2 * _trace(precision[:-1]),
        model.posterior_mean(pulled),
        _trace(covariance) - _trace(covariance @ precision[1:] @ covariance),
        -variance * (precision[:-1] @ model.transition @ covariance),
    )
    step, lost = model.transition, chain.noise**2
    one = torch.ones_like(lost[:1])
    signal_before = torch.cat([one, chain.signal[:-1]])[:, None, None]
    lost_before = torch.cat([0 * one, lost[:-1]])
    shared = chain.alpha.sqrt() * lost_before
    state = chain.signal[:, None, None] * outcomes
    under_q = moment(
        signal_before * outcomes - state @ step.mT - model.shift,
        size * lost_before - 2 * shared * _trace(step) + lost * step.square().sum((1, 2)),
        state,
        size * lost,
        shared[:, None, None] * torch.eye(size, dtype=step.dtype, device=step.device)
        - lost[:, None, None] * step,
    )
    return under_q, under_p


def second_moment_bound(model: LinearGaussianModel, outcomes: Tensor) -> SecondMomentBound:
    """:class:`SecondMomentBound` of every sample, without sampling: ``(N, d)`` outcomes."""
    score = model.score(outcomes)
    surrogate = model.noise_loss_gradient(outcomes).times(model.chain.weights("vlb"))
    lengths = score.inner(score).sum(0), surrogate.inner(surrogate).sum(0)
    product = score.inner(surrogate).sum(0)
    under_q, under_p = score_moments(model, outcomes)
    # Rounding can leave either a hair below 0 where the true value is 0.
    difference = (lengths[0] + lengths[1] - 2 * product).clamp_min(0).sqrt()
    divergence = model.divergence(outcomes).clamp_min(0)
    moments = under_q + under_p
    centred = moments - 0.5 * (lengths[0] + lengths[1] + 2 * product)
    return SecondMomentBound(
        difference=difference,
        length=lengths[0].sqrt(),
        divergence=divergence,
        loose=(2 * moments * divergence).sqrt(),
        sharp=(TRIANGULAR_CONSTANT * moments * divergence).sqrt(),
        centred=(TRIANGULAR_CONSTANT * centred * divergence).sqrt(),
    )


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
