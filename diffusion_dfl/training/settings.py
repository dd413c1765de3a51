"""The knobs of a stage of training."""

import math
from dataclasses import dataclass
from typing import Literal

from diffusion_dfl.sizes import check_sizes


@dataclass(frozen=True)
class TrainingSettings:
    """Knobs of one stage of training.

    Attributes:
        epochs: passes over the training rows.
        batch_size: contexts a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        decay: learning rate over the epochs: constant, cosine.
        decay_epochs: epochs the decay's whole course takes where the stage goes fewer; ``epochs`` where
            that is more, or here is 0.
        gradient_clip: largest gradient norm; 0 for none.
        ema_decay: of the averaged weights that are validated and kept; 0 for none.
        patience: epochs without a better validation score before stopping; 0 for none.
        validate_every: epochs between validations.
        dropout: whether the stage trains with the predictor's dropout. A decision-focused stage that
            samples with dropout trains a wider distribution than the one it is judged by.
        context_noise: noise added to the contexts networks see, in standard deviations of each
            feature. It keeps a network from memorising days; its base, if it has one, and
            constraints see the true ones.
        divergence_factor: a validation score above this multiple of the first one stops the stage;
            0 for none.
        keep: weights a stage ends with: best (validation score) or last. Where the cost is
            heavy-tailed, a validation part without a rare loss scores rash decisions best.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    decay: Literal["constant", "cosine"] = "constant"
    decay_epochs: int = 0
    gradient_clip: float = 0.0
    ema_decay: float = 0.0
    patience: int = 0
    validate_every: int = 1
    dropout: bool = True
    context_noise: float = 0.0
    divergence_factor: float = 0.0
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        check_sizes(0, epochs=self.epochs, patience=self.patience, decay_epochs=self.decay_epochs)
        check_sizes(batch_size=self.batch_size, validate_every=self.validate_every)
        for names, good, mend in (
            (("learning_rate",), lambda value: 0 < value < math.inf, "a finite number > 0"),
            (
                ("weight_decay", "context_noise"),
                lambda value: 0 <= value < math.inf,
                "a finite number >= 0",
            ),
            (("gradient_clip", "divergence_factor"), lambda value: value >= 0, "a number >= 0"),
            (("ema_decay",), lambda value: 0 <= value < 1, "in [0, 1)"),
            (("decay",), lambda value: value in ("constant", "cosine"), "constant or cosine"),
            (("keep",), lambda value: value in ("best", "last"), "best or last"),
        ):
            for name in names:
                value = getattr(self, name)
                try:
                    fits = good(value)
                except TypeError as error:
                    raise TypeError(f"{name}={value!r} must be {mend}") from error
                if not fits:
                    raise ValueError(f"{name}={value} must be {mend}")
        if self.patience and self.keep == "last":
            raise ValueError(
                f"patience={self.patience} must be 0 with keep=last, which waits for no better score"
            )


#: What stages have unless told otherwise: a fit and a base, and decision-focused training.
FIT = TrainingSettings(
    epochs=200, batch_size=64, learning_rate=1e-3, ema_decay=0.99, patience=40, dropout=True
)
TRAIN = TrainingSettings(
    epochs=10,
    batch_size=64,
    learning_rate=1e-4,
    gradient_clip=10.0,
    ema_decay=0.98,
    dropout=True,
    divergence_factor=2.0,
)
