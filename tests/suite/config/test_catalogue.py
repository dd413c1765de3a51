"""What --help lists: every choice, with what its file says of itself."""

from pathlib import Path

import pytest

from diffusion_dfl.suite.config.catalogue import choices, description, options
from diffusion_dfl.suite.places import CONFIG_DIRECTORY

GROUPS = ("task", "model", "grad", "scale", "data", "logger")


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_says_in_its_first_line_what_it_is(group: str) -> None:
    for name, path in options([CONFIG_DIRECTORY], group).items():
        said = description(path)
        assert len(said) > 10, f"{group}={name}"
        assert said.endswith("."), f"{group}={name}: {said}"


def test_every_option_has_a_line_of_its_own_below_its_group() -> None:
    text = choices([CONFIG_DIRECTORY])
    for group in GROUPS:
        block = text.split(f"{group}=  ")[1].split("\n\n")[0]
        first = [line.split()[0] for line in block.splitlines()[1:] if line[2] != " "]
        assert first == list(options([CONFIG_DIRECTORY], group))
    assert max(map(len, text.splitlines())) <= 100


def test_defaults_and_pairs_are_named() -> None:
    text = choices([CONFIG_DIRECTORY])
    assert "task=  which decision problem (default: power)" in text
    assert "model=gaussian       grad=two_stage,reparam,score\n" in text
    assert "schema" not in text


def test_options_and_groups_of_a_folder_of_the_users_own_are_listed(tmp_path: Path) -> None:
    for place, line in (("task/mine", "# A problem of mine, 5 $ a unit."), ("weather/sun", "x: 1")):
        file = tmp_path / f"{place}.yaml"
        file.parent.mkdir()
        file.write_text(f"{line}\n")
    text = choices([CONFIG_DIRECTORY, tmp_path])
    assert "  mine                A problem of mine, 5 $ a unit.\n" in text
    assert "weather=\n  sun  (no description)\n" in text


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("# @package _global_\n# Seconds a run.\nx: 1\n", "Seconds a run."),
        ("# One thing (sections 1 and 2). Another\n# thing.\n", "One thing (sections 1 and 2)."),
        ("# After Donti et al. (2017), with costs.\n", "After Donti et al. (2017), with costs."),
        ("x: 1\n# Too late.\n", ""),
        ("", ""),
    ],
)
def test_a_description_is_the_first_sentence_of_the_first_line(
    head: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(head)
    assert description(file) == said
