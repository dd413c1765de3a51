"""The base of a residual predictor: location and scale of the outcome given the context.

A residual predictor learns the law of ``(y - mu(x)) / sigma(x)``. Were mu fitted to the very rows whose
residuals are the training set, these would be smaller than those of new rows, in size and in shape, and a
decision made on them would have nothing left to gain. So the residuals are out of sample (cross-fitting;
Chernozhukov et al., 2018): with K folds there are K models, each fitted without one fold, and a training
row has the location and scale of the one that did not see it, in the fit and in the decision-focused
stage alike. New rows have the mean of the K locations and the root of the mean of the K variances: the
average of models that each lack a K-th of the rows errs less than one of them, so that residuals of
new rows are, if anything, smaller than those trained on; a refit to all rows would be as good a location
with a scale that no residual was seen of.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from diffusion_dfl.predictors.backbone import ACTIVATIONS, ActivationName
from diffusion_dfl.predictors.base import Predictor, Scaling
from diffusion_dfl.sizes import check_sizes

OutcomeScaling = Literal["global", "residual"]
BaseKind = Literal["gaussian", "deterministic", "linear", "forest"]


class LocationScale(Protocol):
    """What a member of a base is beside a :class:`~diffusion_dfl.predictors.Predictor`."""

    def location_and_scale(self, context: Tensor) -> Scaling:
        """``(B, d_x) -> (B, d_y)`` each, raw units."""
        ...


class ResidualBase(nn.Module):
    """K predictors with :class:`LocationScale`, fitted before the predictor that stands on them.

    Args:
        members: K of them; 1 is a base without folds.

    Attributes:
        fitted_on: digest of the folds the members were fitted on, 0 before they are; a buffer, so that
            a base is not taken for one of other folds.

    Raises:
        TypeError: one that has no location and scale.
    """

    fitted_on: Tensor

    def __init__(self, members: Iterable[Predictor]) -> None:
        super().__init__()
        self.register_buffer("fitted_on", torch.zeros((), dtype=torch.int64))
        self.members = nn.ModuleList(members)
        for member in self.members:
            if not hasattr(member, "location_and_scale"):
                raise TypeError(
                    f"a base needs location_and_scale(context), and {type(member).__name__} has none"
                )
        self.requires_grad_(False)
        # A module is made in training mode, which :meth:`train` below would leave as it is: weights that
        # are loaded rather than fitted would predict with dropout.
        super().train(False)

    @property
    def folds(self) -> int:
        """K."""
        return len(self.members)

    @torch.no_grad()
    def forward(self, context: Tensor, fold: Tensor | None = None) -> Scaling:
        """Location and scale of the outcomes of contexts.

        Args:
            context: ``(B, d_x)``, raw units.
            fold: ``(B,)`` int64, the member that did not see each row; None for new rows.
        """
        found = [self._of(member, context) for member in self.members]
        location = torch.stack([one.location for one in found])
        scale = torch.stack([one.scale for one in found])
        if fold is None or self.folds == 1:
            return Scaling(location.mean(0), scale.square().mean(0).sqrt())
        row = torch.arange(len(context), device=context.device)
        return Scaling(location[fold, row], scale[fold, row])

    @staticmethod
    def _of(member: Any, context: Tensor) -> Scaling:
        found: Scaling = member.location_and_scale(context)
        return found

    def train(self, mode: bool = True) -> "ResidualBase":
        """Nothing: members are fixed while what stands on them is trained."""
        return self


@dataclass(frozen=True)
class BaseModels:
    """What a base is made of: how many models, and which.

    Attributes:
        base_folds: K models of the base, each fitted without one fold of training blocks; 1 sees
            all. Residuals of one that sees all are smaller on training rows than on new ones.
        base_width: units a hidden layer of each.
        base_layers: hidden layers of each.
        base_dropout: share of their hidden units dropped in training.
        base_activation: of their hidden layers: silu, relu, gelu.
        base: what each is: gaussian (a network's mean and standard deviation), deterministic (a
            network trained on squared errors), linear (ridge), forest (mean and standard deviation by
            the weights of a random forest). Scale of the second and third is the outcome's own
            standard deviation; width, layers, dropout and activation are of networks.
        base_leaf_rows: rows of a leaf of a forest's trees, at least.

    Raises:
        ValueError: a value out of range, or an unknown name.
    """

    base_folds: int = 4
    base_width: int = 256
    base_layers: int = 2
    base_dropout: float = 0.1
    base_activation: ActivationName = "silu"
    base: BaseKind = "gaussian"
    base_leaf_rows: int = 5

    def __post_init__(self) -> None:
        check_sizes(
            base_folds=self.base_folds,
            base_width=self.base_width,
            base_leaf_rows=self.base_leaf_rows,
        )
        check_sizes(0, base_layers=self.base_layers)
        if not 0 <= self.base_dropout < 1:
            raise ValueError(f"base_dropout={self.base_dropout} must be in [0, 1)")
        for name, value, known in (
            ("base_activation", self.base_activation, tuple(ACTIVATIONS)),
            ("base", self.base, get_args(BaseKind)),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; choose {', '.join(known)}")

    def networks(self, kind: Callable[..., Predictor]) -> Callable[..., Predictor]:
        """Networks of a kind in their size: ``(context_size, outcome_size) -> network``."""
        return partial(
            kind,
            width=self.base_width,
            layers=self.base_layers,
            dropout=self.base_dropout,
            activation=self.base_activation,
        )
