"""What is typed wrong gets the nearest right one."""

import shlex
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.cli import explain, refuse_unknown
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.config.identities import searching


def _explained(*words: str) -> str:
    with pytest.raises(HydraException) as error:
        compose_config(words)
    said = explain(error.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("modl=gaussian", "model"),
        ("taks=power", "task"),
        ("model=gausian", "gaussian"),
        ("grad=scores", "score"),
        ("grad=two-stage", "two_stage"),
        ("task=powr", "power"),
        ("scale=latop", "laptop"),
        ("data=simulted", "simulated"),
        ("logger=tensorbord", "tensorboard"),
        ("train.learnign_rate=1", "train.learning_rate"),
        ("trian.learning_rate=1", "train.learning_rate"),
        ("decision.num_scenario=5", "decision.num_scenarios"),
        ("descision.num_scenario=5", "decision.num_scenarios"),
        ("model.with=8", "model.width"),
        ("sead=3", "seed"),
    ],
)
def test_the_nearest_right_name_is_said(word: str, meant: str) -> None:
    said = _explained(word)
    assert said.startswith(word.split("=")[0] if "key" in said else word)
    assert f"did you mean {meant}?" in said


@pytest.mark.parametrize("word", ["epochs=3", "epoch=3"])
def test_a_key_without_its_stage_gets_those_of_every_stage(word: str) -> None:
    assert "did you mean foundation.epochs or fit.epochs or train.epochs?" in _explained(word)


def test_a_key_like_none_gets_those_of_its_parent() -> None:
    assert "grad has decision_weight, fit_weight" in _explained("grad=reparam", "grad.xyz=3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hlep"], r"--hlep: there is no such flag; did you mean --help"),
        (["--model=gaussian"], "an override has no dashes: model=gaussian"),
        (["--cfg", "jobs"], "--cfg.*invalid choice: 'jobs'"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: there is no such folder.*your task/"),
        (["--config-name", "other"], "--config-name other: there is no other.yaml in conf/; leave"),
        (["--config-path", "conf"], "--config-path conf: .*--config-dir FOLDER adds"),
        (["preset=synthetic-gaussian-scor"], "did you mean synthetic-gaussian-score?"),
    ],
)
def test_flags_and_presets_that_are_not_there_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        refuse_unknown(words)


def test_what_is_there_passes() -> None:
    refuse_unknown(["preset=synthetic-gaussian-score", "seed=3", "--cfg", "job", "-m", "-sc"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.epochs=abc", "must be an integer, as in train.epochs="),
        ("train.epochs=", "must be an integer, as in train.epochs="),
        ("train.epochs=1.5", "must be an integer, as in train.epochs="),
        ("train.epochs=null", "must be an integer, as in train.epochs="),
        ("train.epochs=[1,2]", "; to run several values: train.epochs=1,2 -m"),
        ("train.learning_rate=fast", "must be a number, as in train.learning_rate=0."),
        ("fit.refit=maybe", "must be true or false, as in fit.refit=true"),
        ("train.decay=[a]", "must be a text, as in train.decay=c"),
        ("model.width=big", "must be an integer, as in model.width="),
        ("seed=first", "must be an integer, as in seed=0"),
    ],
)
def test_a_value_of_another_type_is_told_what_its_key_takes(word: str, said: str) -> None:
    found = _explained(word)
    assert found.startswith(f"{word} must be ") and said in found


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train=[1]", "train=[1]: train holds other keys"),
        ("train={epoch: 1}", "train.epoch: there is no such key; did you mean train.epochs?"),
        ("seed.x=1", "seed.x=1: seed is an integer and holds no other keys"),
    ],
)
def test_a_key_that_holds_others_and_one_that_holds_none_say_so(word: str, said: str) -> None:
    assert _explained(word).startswith(said)


def test_a_value_of_another_type_in_a_file_is_told_its_file(tmp_path: Path) -> None:
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "short.yaml").write_text("# @package _global_\ntrain: {epochs: few}\n")
    with searching(tmp_path):
        said = _explained("preset=short")
    assert said.startswith("train.epochs=few (in preset/short.yaml) must be an integer, as in ")


def test_other_commands_say_how_a_value_is_quoted() -> None:
    said = _explained("data.file=prices (1).csv")
    assert said.endswith("""quote it: 'data.file="prices (1).csv"'""")


def test_a_reference_to_no_key_may_be_part_of_a_name() -> None:
    config = compose_config(["data.file=a${b}.csv"])
    with pytest.raises(OmegaConfBaseException) as error:
        _ = config.data.file
    said = explain(error.value)
    assert said.startswith("data.file=a${b}.csv: ")
    (word,) = shlex.split(said.partition("part of a name: ")[2])
    assert compose_config([word]).data.file == "a${b}.csv"
