"""A refit of nothing, and one that leaves nothing to be judged by, are refused before anything runs."""

import pytest

from diffusion_dfl.config.compose import compose_config, validate
from diffusion_dfl.errors import UserError

CELL = ("task=inventory", "model=gaussian", "grad=reparam")
GIVEN = ("fit.keep=last", "fit.patience=0", "train.keep=last")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            (*CELL, "fit.epochs=0", "train.epochs=0"),
            r"fit.refit=true with fit.epochs=0, train.epochs=0: no epoch is chosen .* fit.refit=false",
        ),
        (
            (*CELL, *GIVEN, "evaluation.test=false"),
            r"evaluation.test=false with fit.refit=true and train.keep=last: .*add fit.refit=false",
        ),
        (
            ("task=inventory", "model=policy", "grad=policy", "train.epochs=0"),
            "fit.refit=true with train.epochs=0",
        ),
    ],
)
def test_a_refit_without_a_choice_or_a_measure_is_refused(
    words: tuple[str, ...], told: str
) -> None:
    config = compose_config(list(words))
    with pytest.raises(UserError, match=told):
        validate(config)
    config.fit.refit = False
    validate(config)


@pytest.mark.parametrize(
    "words",
    [
        (*CELL, "fit.epochs=0"),
        (*CELL, *GIVEN),
        (*CELL, *GIVEN[:2], "train.keep=best", "evaluation.test=false"),
        ("task=inventory", "model=gaussian", "grad=two_stage", *GIVEN[:2]),
    ],
)
def test_a_refit_of_something_is_not(words: tuple[str, ...]) -> None:
    validate(compose_config(list(words)))
