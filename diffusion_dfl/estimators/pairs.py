"""Which estimator suits which predictor: decided by what both say of themselves, not by names."""

from inspect import signature
from typing import Any

from diffusion_dfl.estimators.policy import Policy
from diffusion_dfl.estimators.reparam import Reparam
from diffusion_dfl.estimators.score import Score, ScorePath
from diffusion_dfl.estimators.set_score import SetScore
from diffusion_dfl.predictors import DecisionMaker, DiffusionPredictor, Predictor


def check_estimator(estimator: Any) -> None:
    """Raise TypeError unless it is callable and says whether it is decision-focused."""
    kind = type(estimator).__name__
    if isinstance(estimator, type) or not callable(estimator):
        raise TypeError(
            f"{estimator!r} is no estimator; expected an object that is called with (predictor, "
            "layer, batch, generator) and returns a Loss"
        )
    if not isinstance(getattr(estimator, "decision_focused", None), bool):
        raise TypeError(
            f"{kind} has no attribute decision_focused; set it to True if its loss involves the "
            "decision layer, else to False"
        )


def check_pair(predictor: DecisionMaker, estimator: Any) -> None:
    """Raise TypeError where an estimator of this package has no use for a predictor, ValueError where a
    knob of the one does not suit the other.

    An estimator of the user's own that derives from none of them is left to judge for itself.
    """
    kind, name = type(predictor).__name__, type(estimator).__name__
    if isinstance(estimator, Policy) and not predictor.decides:
        raise TypeError(f"{name} trains a PolicyNetwork, not a {kind}")
    if isinstance(estimator, Reparam) and not predictor.pathwise:
        raise TypeError(
            f"{name} needs scenarios that are differentiable in the weights, and {kind} says "
            "pathwise = False"
        )
    if isinstance(estimator, ScorePath) and not predictor.has_path:
        raise TypeError(
            f"{name} needs a DiffusionPredictor, whose sampler has a path, not a {kind}"
        )
    if isinstance(estimator, Reparam) and isinstance(predictor, Predictor):
        predictor.check_backpropagation(estimator.backpropagation)
    if isinstance(estimator, ScorePath) and isinstance(predictor, DiffusionPredictor):
        predictor.check_path_density()
    if isinstance(estimator, SetScore) and isinstance(predictor, Predictor):
        estimator.check_predictor(predictor)
    needs_density = getattr(estimator, "needs_density", isinstance(estimator, Score))
    if needs_density and not predictor.has_density:
        raise TypeError(f"{name} needs a log-density, and {kind} says has_density = False")
    if predictor.decides and not estimator.decision_focused:
        raise TypeError(f"{kind} predicts no outcome, so {name} has nothing to fit; use Policy")


def check_weights(predictor: DecisionMaker, estimator: Any) -> None:
    """Raise TypeError where weights of rows would be left unread."""
    base = predictor.base if isinstance(predictor, Predictor) else None
    for one in (predictor, *(() if base is None else base.members)):
        if not isinstance(one, Predictor):
            continue  # A policy has no loss of its own.
        read = one.fit_rows if one.closed_form else one.loss
        if "weights" not in signature(read).parameters:
            raise TypeError(
                f"the data have weights, and {type(one).__name__}.{read.__name__} has no argument for "
                "them; give it weights=None, (B,), by which it multiplies the loss of every row, or "
                "leave out weights="
            )
    if not getattr(estimator, "takes_weights", False):
        raise TypeError(
            f"the data have weights, and {type(estimator).__name__} does not say takes_weights = True; "
            "multiply the loss of every row by batch.weights and say so, or leave out weights="
        )
