"""Typical mistakes at the command line, each answered by the right form in one line."""

import subprocess
import sys

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.cli import _meant, _paths
from diffusion_dfl.suite.config import synonyms
from diffusion_dfl.suite.config.arguments import normalise
from diffusion_dfl.suite.config.catalogue import options
from diffusion_dfl.suite.places import CONFIG_DIRECTORY
from tests.configs import composed
from tests.processes import ROOT, forked

MISTAKES = {
    "seed=0..9": "write seed=0-9 for a range",
    "seed=0:9": "write seed=0-9 for a range",
    "seed=1-": "write seed=0-9 for a range",
    "--seed 3": "an override has no dashes: seed=3",
    "-seed 3": "an override has no dashes: seed=3",
    "--seed=3": "an override has no dashes: seed=3",
    "seeds=0-9": "here it is seed",
    "seed=0-9": "add -m",
    "train.lr=1e-3": "here it is train.learning_rate",
    "lr=1e-3": "fit.learning_rate or train.learning_rate",
    "M=50": "here it is decision.num_scenarios",
    "gpu=0": "here it is device=cuda",
    "model.hidden=64": "here it is model.width",
    "output=foo": "output.root",
    "grad=reparameterization": "here it is grad=reparam",
    "grad=score-function": "here it is grad=score",
    "model=ddpm": "here it is model=diffusion",
    "model=gausian": "did you mean gaussian?",
    "task=newsvendor": "here it is task=inventory",
    "scale=small": "here it is scale=smoke",
    "model=mlp": "here it is model=deterministic",
    "train.batchsize=3": "train.batch_size",
    "model gaussian": "model=gaussian",
    "train.epochs=abc": "train.epochs=abc must be an integer",
    "--config-dir nowhere": "there is no such folder",
    "--config-name other": "leave it out",
    "scale=1": "scale takes a name",
}


@pytest.mark.slow
@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_answered_by_the_right_form(typed: str) -> None:
    done = forked(ROOT / "train.py", *typed.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("error: ") and MISTAKES[typed] in line


@pytest.mark.parametrize(
    "word",
    [
        "train.decay=linear",
        *(
            pytest.param(word, marks=pytest.mark.slow)
            for word in (
                "evaluation.num_large=5",
                "+fit.epoch=3",
                "train.epochs=abc",
                "model=gausian",
            )
        ),
    ],
)
def test_what_the_configuration_alone_tells_is_refused_without_torch(word: str) -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['train.py', sys.argv[1]]; "
        "runpy.run_path('train.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, word], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {word.lstrip('+')}"), done.stderr


@pytest.mark.parametrize("group", synonyms.CHOICES)
def test_words_of_others_stand_for_options_there_are(group: str) -> None:
    there = set(options([CONFIG_DIRECTORY], group))
    assert set(synonyms.CHOICES[group].values()) <= there
    assert not there & set(synonyms.CHOICES[group])


def test_words_of_others_stand_for_keys_there_are() -> None:
    paths = _paths(composed([]))
    for word, ours in synonyms.KEYS.items():
        assert "here it is " in _meant(word, paths), word
        if "=" in ours:
            composed([ours])
        else:
            assert not any(path.rpartition(".")[2] == word for path in paths), word


@pytest.mark.parametrize("words", [["--seed", "3"], ["seed=0..9", "-m"], ["-seed", "3"]])
def test_forms_of_others_are_refused_with_ours(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"seed=3|seed=0-9"):
        normalise(words)
