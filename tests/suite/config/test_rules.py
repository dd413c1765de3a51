"""A refit of nothing, and one that leaves nothing to be judged by, are refused before anything runs."""

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.options import read_group
from diffusion_dfl.suite.config.rules import READS
from diffusion_dfl.suite.places import CONFIG_DIRECTORY
from diffusion_dfl.suite.runs.compile import check_parts
from tests.configs import composed

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
    config = composed(list(words))
    with pytest.raises(UserError, match=told):
        check_parts(config)
    config.fit.refit = False
    check_parts(config)


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
    check_parts(composed(list(words)))


CHEAP = ("model=gaussian", "grad=two_stage")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["task=portfolio", "data.file=x.csv"],
            "with data=sp500 does not read .*; write data=csv data.file=x.csv, or",
        ),
        (
            ["task=power", "data.file=x.csv"],
            "task=power with data=real .*write data=csv data.file=",
        ),
        *[
            (
                [f"task={task}", "data=simulated", "data.file=x.csv"],
                "write data=csv data.file=x.csv",
            )
            for task in ("power", "portfolio")
        ],
        (["task=portfolio", "data=skfolio", "data.file=x.csv"], "write data=csv data.file=x.csv"),
        (["task=portfolio", "data=quandl", "data.file=x.csv"], "write data=csv data.file=x.csv"),
        (["task=portfolio", "data=quandl", "data.root=y"], "write data=real data.root=y"),
        (["task=portfolio", "data=skfolio", "data.url=y"], "write data=real data.url=y"),
        (
            ["task=portfolio", "data=csv", "data.file=x", "data.root=y"],
            "write data=real data.root=y",
        ),
        (["task=power", "data.num_days=99"], "write data=simulated data.num_days=99, or leave it"),
        (["task=power", "data=csv", "data.num_days=99"], "write data=simulated data.num_days=99"),
        (["task=power", "data=simulated", "data.root=y"], "write data=real data.root=y"),
        (["task=power", "data=simulated", "data.directory=y"], "write data=real data.directory=y"),
        *[
            ([f"task={task}", f"data.{word}"], f"data.{word}: task={task} .*; leave it out$")
            for task in ("synthetic", "inventory", "synthetic_released")
            for word in ("file=x.csv", "num_days=99", "root=y")
        ],
        *[
            ([f"task={task}", "data.file=x.csv"], r"data\.file=x\.csv: .*; leave it out$")
            for task in ("power_released", "power_weather", "portfolio_released")
        ],
        (["task=power_weather", "data.num_days=99"], "leave it out$"),
    ],
)
def test_data_that_was_named_and_will_not_be_read_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_parts(composed([*CHEAP, *words]))


@pytest.mark.parametrize(
    "words",
    [
        ["task=power"],
        ["task=power", "data.root=y", "data.url=http://x", "data.directory=z"],
        ["task=power", "data=csv", "data.file=x.csv"],
        ["task=power", "data=simulated", "data.num_days=99"],
        ["task=portfolio", "data.root=y"],
        ["task=portfolio", "data=real", "data.root=y"],
        ["task=portfolio", "data=csv", "data.file=x.csv"],
        ["task=portfolio", "data.source=csv", "data.file=x.csv"],
        ["task=portfolio", "data=quandl", "data.url=https://x", "data.directory=y"],
        ["task=portfolio", "data=skfolio", "data.file=null"],
        ["task=portfolio", "data=simulated", "data.num_days=99"],
        ["task=portfolio_released", "data=simulated", "data.num_days=600"],
        ["task=power_released", "data.root=y"],
        ["task=synthetic"],
        ["task=inventory"],
    ],
    ids=" ".join,
)
def test_data_that_will_be_read_is_not(words: list[str]) -> None:
    check_parts(composed([*CHEAP, *words]))


def test_every_source_says_what_it_reads() -> None:
    assert {*READS, "own"} == set(read_group(CONFIG_DIRECTORY, "data"))
