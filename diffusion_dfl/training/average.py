"""The exponential moving average of a predictor's weights."""

import copy

import torch
from torch import Tensor

from diffusion_dfl.predictors import DecisionMaker

_MODULE = "module."


class WeightAverage:
    """``mean <- decay mean + (1 - decay) weights``; the first weights are the first mean.

    Of the weights that are trained, which are listed once: looking for the parameters of a predictor with a
    base takes a seventh of a step.

    Args:
        predictor: what is trained.
        decay: in (0, 1).
    """

    def __init__(self, predictor: DecisionMaker, decay: float) -> None:
        self._predictor, self._module = predictor, copy.deepcopy(predictor)
        self._share, self._begun = 1.0 - decay, False
        both = zip(predictor.parameters(), self._module.parameters(), strict=True)
        trained = [(own.detach(), mean.detach()) for own, mean in both if own.requires_grad]
        self._own = [own for own, _ in trained]
        self._mean = [mean for _, mean in trained]

    def update(self) -> None:
        """Take the present weights in."""
        torch._foreach_lerp_(self._mean, self._own, self._share if self._begun else 1.0)
        self._begun = True

    @property
    def module(self) -> DecisionMaker:
        """A predictor of the mean weights, with the present buffers."""
        both = zip(self._predictor.buffers(), self._module.buffers(), strict=True)
        for own, mean in both:
            mean.copy_(own)
        return self._module

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        weights = {f"{_MODULE}{name}": value for name, value in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(int(self._begun)), **weights}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self._begun = bool(state["n_averaged"] > 0)
        self._module.load_state_dict(
            {name[len(_MODULE) :]: state[name] for name in state if name.startswith(_MODULE)}
        )
