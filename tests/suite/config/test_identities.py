"""Identities are remembered between processes, and never after what they depend on has changed."""

import json
import shutil
from pathlib import Path

import pytest

from diffusion_dfl.suite import places
from diffusion_dfl.suite.config import compose, identities
from diffusion_dfl.suite.config.compose import compose_config, identify
from diffusion_dfl.suite.config.identities import identity_of

WORDS = ("task=synthetic", "model=gaussian", "grad=reparam", "decision.num_scenarios=50")


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    conf = tmp_path / "conf"
    shutil.copytree(compose.CONFIG_DIRECTORY, conf)
    monkeypatch.setattr(compose, "CONFIG_DIRECTORY", conf)
    monkeypatch.setattr(places, "REPOSITORY", tmp_path)
    forget()
    return conf


def forget() -> None:
    identity_of.cache_clear()
    identities._digest.cache_clear()
    identities._config.cache_clear()
    identities._preset.cache_clear()


def test_what_is_remembered_is_what_composing_says(own_conf: Path) -> None:
    composed = identify(compose_config([*WORDS, "seed=0"]))
    assert identity_of(WORDS) == composed
    (place,) = (own_conf.parent / ".cache").iterdir()
    forget()
    assert identity_of(WORDS) == composed
    # It was read, not composed again.
    told = json.loads(place.read_text())
    told[json.dumps(WORDS)]["config_hash"] = "read from the file"
    place.write_text(json.dumps(told))
    forget()
    assert identity_of(WORDS).config_hash == "read from the file"


def test_a_changed_preset_is_composed_anew(own_conf: Path) -> None:
    before = identity_of(WORDS).config_hash
    preset = own_conf / "preset" / "synthetic-gaussian-reparam.yaml"
    preset.write_text(preset.read_text() + "evaluation:\n  num_large: 400\n")
    forget()
    assert identity_of(WORDS).config_hash != before


def test_a_damaged_file_and_a_folder_that_cannot_be_written_only_cost_time(own_conf: Path) -> None:
    known = identity_of(WORDS)
    (place,) = (own_conf.parent / ".cache").iterdir()
    place.write_text('{"[\\"task=synthetic\\"]": {"task": "pow')
    forget()
    assert identity_of(WORDS) == known
    shutil.rmtree(own_conf.parent / ".cache")
    (own_conf.parent / ".cache").write_text("a file in its place")
    forget()
    assert identity_of(WORDS) == known
