"""A diffusion model in closed form: linear noise prediction on Gaussian data (Appendix A.5).

The denoiser ``eps_theta(y_t, t, x) = A_t y_t + B_t x + c_t`` has parameters of its own at every
step, the data are ``y given x ~ N(W x, I)``. Every law of the reverse chain is then Gaussian, so
that the log-likelihood, the ELBO and both their gradients in theta = (A, B, c) are exact: no sampling over
timesteps or noise. What Figure 6 says is checked against these; Proposition 5.1 in linear_bound.py.

Symbols: T steps, d outcomes, p contexts, N samples (x, y_0), all float64. Arrays over steps hold
t = 1..T at places 0..T-1. With g_t = beta_t / sqrt(alpha_t (1 - alpha_bar_t)) the chain is::

    y_{t-1} = M_t y_t - g_t (B_t x + c_t) + sigma_t xi,    M_t = I / sqrt(alpha_t) - g_t A_t.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule

Variance = Literal["beta", "posterior"]
Weighting = Literal["vlb", "simple"]
ErrorShape = Literal["stepwise", "uniform"]

VARIANCES: tuple[Variance, ...] = ("beta", "posterior")
WEIGHTINGS: tuple[Weighting, ...] = ("vlb", "simple")
ERROR_SHAPES: tuple[ErrorShape, ...] = ("stepwise", "uniform")


@dataclass(frozen=True)
class ReverseChain:
    """What the reverse chain takes from the noise schedule; ``(T,)`` each.

    Attributes:
        signal: sqrt(alpha_bar_t).
        noise: sqrt(1 - alpha_bar_t).
        alpha: alpha_t.
        gain: g_t, what the predicted noise is multiplied by.
        variance: sigma_t^2.
        floor: variance of q(y_{t-1} | y_t, y_0), 0 at t = 1.
    """

    signal: Tensor
    noise: Tensor
    alpha: Tensor
    gain: Tensor
    variance: Tensor
    floor: Tensor

    @classmethod
    def of(cls, schedule: NoiseSchedule, variance: Variance) -> "ReverseChain":
        """The chain of ``schedule`` with T >= 2, in float64."""
        return cls.along(schedule.alpha_bar.double(), variance)

    @classmethod
    def along(cls, alpha_bar: Tensor, variance: Variance) -> "ReverseChain":
        """The chain of alpha_bar_0 = 1, ..., alpha_bar_T: ``(T+1,)``.

        ``variance``: ``beta`` is sigma_t^2 = beta_t; ``posterior`` the variance of
        q(y_{t-1} | y_t, y_0), which is 0 at t = 1 and would put the ELBO at minus infinity: that
        step takes the value of step 2 (Nichol and Dhariwal, 2021, Section 3.1).

        Raises:
            ValueError: fewer than two steps, or an unknown variance.
        """
        if len(alpha_bar) < 3:
            raise ValueError(f"num_steps={len(alpha_bar) - 1} must be at least 2")
        if variance not in VARIANCES:
            raise ValueError(f"variance={variance!r} is unknown; choose one of {VARIANCES}")
        now, before = alpha_bar[1:], alpha_bar[:-1]
        alpha = now / before
        beta = 1 - alpha
        floor = beta * (1 - before) / (1 - now)
        clipped = torch.cat([floor[1:2], floor[1:]])
        return cls(
            signal=now.sqrt(),
            noise=(1 - now).sqrt(),
            alpha=alpha,
            gain=beta / (alpha * (1 - now)).sqrt(),
            variance=beta if variance == "beta" else clipped,
            floor=floor,
        )

    def weights(self, weighting: Weighting) -> Tensor:
        """w_t of the loss sum_t w_t E |eps - eps_theta|^2: ``(T,)``.

        ``vlb``: beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)), which makes the loss the
        negative ELBO up to a constant, the term of t = 1 included; ``simple``: 1 (Ho et al., 2020).

        Raises:
            ValueError: an unknown weighting.
        """
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting={weighting!r} is unknown; choose one of {WEIGHTINGS}")
        if weighting == "simple":
            return torch.ones_like(self.gain)
        return self.gain**2 / (2 * self.variance)


@dataclass(frozen=True)
class LinearDenoiser:
    """eps_theta(y_t, t, x) = A_t y_t + B_t x + c_t.

    Attributes:
        on_outcome: A, ``(T, d, d)``.
        on_context: B, ``(T, d, p)``.
        offset: c, ``(T, d)``.
    """

    on_outcome: Tensor
    on_context: Tensor
    offset: Tensor

    @classmethod
    def optimum(cls, chain: ReverseChain, slope: Tensor) -> "LinearDenoiser":
        """E[eps | y_t, x] for data N(W x, I), W = ``slope`` ``(d, p)``.

        A_t = sqrt(1 - alpha_bar_t) I, B_t = -sqrt((1 - alpha_bar_t) alpha_bar_t) W, c_t = 0.
        """
        eye = torch.eye(len(slope), dtype=slope.dtype, device=slope.device)
        return cls(
            on_outcome=chain.noise[:, None, None] * eye,
            on_context=-(chain.noise * chain.signal)[:, None, None] * slope,
            offset=slope.new_zeros(len(chain.noise), len(slope)),
        )

    def perturbed(
        self, error: float, shape: ErrorShape, generator: torch.Generator
    ) -> "LinearDenoiser":
        """This denoiser with a relative random error, independent over entries and steps.

        Every entry of A_t and B_t gets a normal error of standard deviation ``error`` times the
        root mean square of the entries of its matrix, so that the Frobenius norm of the error is
        ``error`` times that of the matrix, in root mean square. c_t, whose optimum is 0, gets
        ``error`` times ``|A_t|_F / sqrt(d)``, the size of A_t y_t for a y_t of unit variance.

        ``stepwise`` takes these sizes at each step; ``uniform`` their root mean square over all
        steps, so that the error is as large at the first steps, where A_t is small, as at the last.

        Raises:
            ValueError: an unknown shape.
        """
        if shape not in ERROR_SHAPES:
            raise ValueError(f"shape={shape!r} is unknown; choose one of {ERROR_SHAPES}")
        over = (1, 2) if shape == "stepwise" else (0, 1, 2)

        def moved(block: Tensor, size: Tensor) -> Tensor:
            draw = torch.randn(block.shape, generator=generator, dtype=block.dtype)
            return block + error * size * draw.to(block.device)

        def rms(block: Tensor) -> Tensor:
            return block.square().mean(over, keepdim=True).sqrt()

        size = rms(self.on_outcome)
        return LinearDenoiser(
            on_outcome=moved(self.on_outcome, size),
            on_context=moved(self.on_context, rms(self.on_context)),
            offset=moved(self.offset, size.squeeze(2) * math.sqrt(self.offset.shape[1])),
        )


@dataclass(frozen=True)
class Gradient:
    """A gradient in theta a sample, as rank one plus a matrix that all samples share.

    A_t: ``left right^T + shared``; B_t: ``left x^T``; c_t: ``left``. Inner products cost O(d^2) a
    sample and step, and no ``(N, T, d, d)`` array exists.

    Attributes:
        left, right: ``(T, N, d)``.
        shared: ``(T, d, d)``.
        contexts: x, ``(N, p)``.
    """

    left: Tensor
    right: Tensor
    shared: Tensor
    contexts: Tensor

    def inner(self, other: "Gradient") -> Tensor:
        """Inner product of the two gradients in (A_t, B_t, c_t), by step: ``(T, N)``."""
        affine = 1 + (self.contexts * other.contexts).sum(1)
        ends = (self.right * other.right).sum(2) + affine
        product = (self.left * other.left).sum(2) * ends
        product = product + ((self.left @ other.shared) * self.right).sum(2)
        product = product + ((other.left @ self.shared) * other.right).sum(2)
        return product + (self.shared * other.shared).sum((1, 2))[:, None]

    def times(self, weights: Tensor) -> "Gradient":
        """This gradient with the parameters of step t multiplied by ``weights`` ``(T,)``."""
        scale = weights[:, None, None]
        return Gradient(scale * self.left, self.right, scale * self.shared, self.contexts)

    def dense(self) -> LinearDenoiser:
        """All entries, with N in front: ``(N, T, d, d)``, ``(N, T, d, p)``, ``(N, T, d)``."""
        left, right = self.left.transpose(0, 1), self.right.transpose(0, 1)
        return LinearDenoiser(
            on_outcome=left.unsqueeze(3) * right.unsqueeze(2) + self.shared,
            on_context=left.unsqueeze(3) * self.contexts[:, None, None, :],
            offset=left,
        )


class LinearGaussianModel:
    """The law of ``y_0 given x`` under the reverse chain, its ELBO, and the gradients of both.

    The marginals of the chain, y_t ~ N(m_t, S_t), follow from m_T = 0, S_T = I by ::

        m_{t-1} = M_t m_t - g_t (B_t x + c_t),    S_{t-1} = M_t S_t M_t^T + sigma_t^2 I.

    Args:
        denoiser: theta.
        chain: the schedule.
        contexts: x of the N samples, ``(N, p)``.
    """

    def __init__(self, denoiser: LinearDenoiser, chain: ReverseChain, contexts: Tensor) -> None:
        self.denoiser, self.chain, self.contexts = denoiser, chain, contexts
        eye = torch.eye(denoiser.offset.shape[1], dtype=contexts.dtype, device=contexts.device)
        self._eye = eye
        gain = chain.gain[:, None, None]
        self.transition = eye / chain.alpha.sqrt()[:, None, None] - gain * denoiser.on_outcome
        drive = contexts @ denoiser.on_context.mT + denoiser.offset.unsqueeze(1)
        self.shift = -gain * drive
        self._drive = drive
        mean, covariance = torch.zeros_like(drive[0]), eye
        means, covariances = [mean], [covariance]
        for place in range(len(chain.gain) - 1, -1, -1):
            step = self.transition[place]
            mean = mean @ step.T + self.shift[place]
            covariance = step @ covariance @ step.T + chain.variance[place] * eye
            means.append(mean)
            covariances.append(covariance)
        # Places 0..T hold the laws of y_0..y_T.
        self.means = torch.stack(means[::-1])
        self.covariances = torch.stack(covariances[::-1])

    def sample(self, normals: Tensor) -> Tensor:
        """y_0 of the ancestral chain, from its marginal: standard normals ``(N, d) -> (N, d)``."""
        return self.means[0] + normals @ torch.linalg.cholesky(self.covariances[0]).T

    def log_likelihood(self, outcomes: Tensor) -> Tensor:
        """log p_theta(y_0 | x): ``(N, d) -> (N,)``."""
        factor = torch.linalg.cholesky(self.covariances[0])
        residual = (outcomes - self.means[0]).T
        white = torch.linalg.solve_triangular(factor, residual, upper=False)
        log_scale = factor.diagonal().log().sum() + 0.5 * len(factor) * math.log(2 * math.pi)
        return -0.5 * white.square().sum(0) - log_scale

    def noise_loss(self, outcomes: Tensor) -> Tensor:
        """E_eps |eps - eps_theta(y_t, t, x)|^2 given y_0, by step: ``(N, d) -> (T, N)``.

        ``|sqrt(alpha_bar_t) A_t y_0 + B_t x + c_t|^2 + |I - sqrt(1 - alpha_bar_t) A_t|_F^2``.
        """
        bias = self._bias(outcomes)
        return bias.square().sum(2) + self._spread().square().sum((1, 2))[:, None]

    def elbo(self, outcomes: Tensor) -> Tensor:
        """The ELBO of Eq. 7, constants included: ``(N, d) -> (N,)``.

        ``sum_t`` of minus the KL of q(y_{t-1} | y_t, y_0) to the chain's step for t >= 2, plus
        E log p(y_0 | y_1), minus the KL of q(y_T | y_0) to N(0, I).
        """
        chain, size = self.chain, outcomes.shape[1]
        weighted = (chain.weights("vlb")[:, None] * self.noise_loss(outcomes)).sum(0)
        ratio = chain.floor[1:] / chain.variance[1:]
        steps = 0.5 * size * (ratio - 1 - ratio.log()).sum()
        last = 0.5 * size * (2 * math.pi * chain.variance[0]).log()
        kept, lost = chain.signal[-1] ** 2, chain.noise[-1] ** 2
        start = 0.5 * (kept * outcomes.square().sum(1) + size * (lost - 1 - lost.log()))
        return -weighted - steps - last - start

    def divergence(self, outcomes: Tensor) -> Tensor:
        """KL(q(y_1..y_T | y_0) || p_theta(y_1..y_T | y_0)) = log p - ELBO: ``(N, d) -> (N,)``."""
        return self.log_likelihood(outcomes) - self.elbo(outcomes)

    def score(self, outcomes: Tensor) -> Gradient:
        """The gradient of log p_theta(y_0 | x) in theta.

        With r_0 = S_0^-1 (y_0 - m_0), r_t = M_t^T r_{t-1}, Q_0 = S_0^-1, Q_t = M_t^T Q_{t-1} M_t,
        the gradient in M_t is ``r_{t-1} E[y_t | y_0]^T - Q_{t-1} M_t S_t``, with
        E[y_t | y_0] = m_t + S_t r_t; M_t and the shift hold theta with the factor -g_t.
        """
        pulled, precision = self.pull_back(outcomes)
        gain = self.chain.gain[:, None, None]
        return Gradient(
            left=-gain * pulled[:-1],
            right=self.posterior_mean(pulled),
            shared=gain * (precision[:-1] @ self.transition @ self.covariances[1:]),
            contexts=self.contexts,
        )

    def noise_loss_gradient(self, outcomes: Tensor) -> Gradient:
        """The gradient of minus ``noise_loss``; times w_t it is that of the (weighted) ELBO.

        A_t: ``-2 b (sqrt(alpha_bar_t) y_0)^T + 2 sqrt(1 - alpha_bar_t) (I - sqrt(1 - alpha_bar_t)
        A_t)`` with b = sqrt(alpha_bar_t) A_t y_0 + B_t x + c_t; B_t: ``-2 b x^T``; c_t: ``-2 b``.
        """
        return Gradient(
            left=-2 * self._bias(outcomes),
            right=self.chain.signal[:, None, None] * outcomes,
            shared=2 * self.chain.noise[:, None, None] * self._spread(),
            contexts=self.contexts,
        )

    def _bias(self, outcomes: Tensor) -> Tensor:
        signal = self.chain.signal[:, None, None]
        return signal * (outcomes @ self.denoiser.on_outcome.mT) + self._drive

    def _spread(self) -> Tensor:
        return self._eye - self.chain.noise[:, None, None] * self.denoiser.on_outcome

    def pull_back(self, outcomes: Tensor) -> tuple[Tensor, Tensor]:
        """r_0..r_T and Q_0..Q_T of :meth:`score`: ``(T+1, N, d)`` and ``(T+1, d, d)``."""
        precision = torch.linalg.inv(self.covariances[0])
        pulled = (outcomes - self.means[0]) @ precision
        all_pulled, all_precision = [pulled], [precision]
        for step in self.transition:
            pulled = pulled @ step
            precision = step.T @ precision @ step
            all_pulled.append(pulled)
            all_precision.append(precision)
        return torch.stack(all_pulled), torch.stack(all_precision)

    def posterior_mean(self, pulled: Tensor) -> Tensor:
        """E[y_t | y_0] under p for t = 1..T: ``(T, N, d)``."""
        return self.means[1:] + pulled[1:] @ self.covariances[1:]


def cosines(score: Gradient, surrogate: Gradient, weights: Tensor) -> Tensor:
    """Cosine over all of theta between ``score`` and ``surrogate.times(w)``, for each row w.

    ``weights`` ``(W, T) -> (W, N)``.
    """
    product = weights @ score.inner(surrogate)
    lengths = weights.square() @ surrogate.inner(surrogate)
    return product / (lengths * score.inner(score).sum(0)).sqrt()
