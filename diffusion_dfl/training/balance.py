"""The weight of the decision loss as a share of gradient norms.

A decision cost is in money and a predictor's own loss in nats or squared deviations; a score's surrogate
has a scale of its own (on the power task a fourteenth of the pathwise gradient's). Weights of such losses
mean another step for every estimator. Here the decision's gradient g_d is brought to the norm of the
fit's g_f first:

    g = fit_weight g_f + decision_weight (n_f / n_d) g_d,

with n the root of a running mean of squared norms over the steps *before* this one: were they this step's
own, a step with much at stake would be divided by its own size, which is a bias. The two losses have
graphs of their own, so that two backward passes cost what one of their sum does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusion_dfl.estimators import Loss

# Share of what was known in the running mean of squared norms: some ten steps.
_MEMORY = 0.9
_FLOOR = 1e-24


class GradientBalance:
    """Backward passes of losses, with the running norms of their two parts."""

    def __init__(self) -> None:
        self._squares: Tensor | None = None

    def backward(self, loss: Loss, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
        """Set ``.grad`` of the parameters.

        Args:
            loss: one with ``parts`` is balanced; the value of any other is differentiated.
            parameters: those to be trained, with ``.grad`` None.

        Returns:
            Detached scalars: ``decision_norm`` and ``fit_norm`` of this step, ``decision_scale``, what
            the decision's gradient was multiplied by; nothing for a loss without parts.
        """
        if loss.parts is None:
            loss.value.backward()
            return {}
        loss.parts.fit.backward()
        fit = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        loss.parts.decision.backward()
        decision = [parameter.grad for parameter in parameters]
        norms = torch.stack([_norm(decision, loss.value), _norm(fit, loss.value)])
        known = norms.square()
        if self._squares is not None:
            # Of a norm that was 0 so far, this step's own: a ratio to nothing is no scale.
            known = torch.where(self._squares > 0, self._squares, known)
        ratio = (known[1] / known[0].clamp_min(_FLOOR)).sqrt()
        scale = loss.parts.decision_weight * ratio
        for parameter, left, right in zip(parameters, decision, fit, strict=True):
            parameter.grad = _sum(left, scale, right, loss.parts.fit_weight)
        # A step that is not finite ends the stage, and must not be remembered.
        self._squares = _MEMORY * known + (1.0 - _MEMORY) * norms.square()
        return {"decision_norm": norms[0], "fit_norm": norms[1], "decision_scale": scale}

    def state(self) -> list[float] | None:
        """For a checkpoint."""
        return None if self._squares is None else self._squares.tolist()

    def restore(self, state: list[float] | None, device: torch.device) -> None:
        """The inverse of :meth:`state`."""
        self._squares = (
            None if state is None else torch.tensor(state, dtype=torch.float64, device=device)
        )


def _norm(gradients: list[Tensor | None], like: Tensor) -> Tensor:
    found = [gradient for gradient in gradients if gradient is not None]
    if not found:
        return torch.zeros((), dtype=torch.float64, device=like.device)
    return torch.nn.utils.get_total_norm(found).double()


def _sum(left: Tensor | None, scale: Tensor, right: Tensor | None, weight: float) -> Tensor | None:
    """``scale * left + weight * right``; None is zero."""
    if left is None:
        return None if right is None else right.mul_(weight)
    scaled = left.mul_(scale.to(left.dtype))
    return scaled if right is None else scaled.add_(right, alpha=weight)
