"""docs/config.md: made from conf/ and the schemas, whole, and up to date."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from diffusion_dfl.suite.config import compose, options
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.config.options import read_entries, read_group, read_option
from diffusion_dfl.suite.config.reference import PAGE, render, without_meaning
from diffusion_dfl.suite.config.signature import Knob, knobs
from diffusion_dfl.suite.places import CONFIG_DIRECTORY

ROOT = CONFIG_DIRECTORY.parent


@pytest.fixture(scope="module")
def page() -> str:
    return render(CONFIG_DIRECTORY)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONFIG_DIRECTORY, tmp_path / "conf"))


def replace(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_the_committed_page_is_what_conf_and_the_schemas_say(page: str) -> None:
    assert page == (ROOT / PAGE).read_text(encoding="utf-8"), "run `make config-docs`"


def test_every_key_of_every_schema_has_a_meaning() -> None:
    assert without_meaning(CONFIG_DIRECTORY) == []


def test_keys_without_a_meaning_are_named_with_their_option(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(copy / "config.yaml", "# where runs, tables and figures go", "")

    def silent(target: str) -> dict[str, Knob]:
        found = knobs(target)
        if target == "diffusion_dfl.tasks.power_task":
            found = {**found, "ramp": dataclasses.replace(found["ramp"], meaning="")}
        return found

    monkeypatch.setattr(options, "knobs", silent)
    assert sorted(without_meaning(copy)) == ["config.yaml: output.root", "task=power: task.ramp"]


def test_values_stand_as_they_are_written_and_composed(page: str) -> None:
    assert "| `task.shortage` | float | `50.0` | gamma_s, cost of a unit of unmet load |" in page
    # The stages side by side; one of them has a key more.
    assert "| `learning_rate` | float | `0.001` | `0.001` | `0.0001` | of AdamW |" in page
    assert "| `refit` | bool | – | `true` | – |" in page
    assert "| `task.weights` | list[float] or null | `null` |" in page
    assert compose_config(["grad=two_stage"]).train.learning_rate == 1e-4


@pytest.mark.parametrize("group", ["task", "model", "grad", "data", "logger"])
def test_every_option_has_its_heading(page: str, group: str) -> None:
    for name in read_group(CONFIG_DIRECTORY, group):
        assert f"### {group}={name}\n" in page


def test_every_preset_of_a_cell_has_a_row_with_what_it_shares(page: str) -> None:
    lines = page.splitlines()
    row = next(line for line in lines if line.startswith("| `power-diffusion-score` |"))
    assert "`grad.decision_weight=" in row  # its own
    assert "`model.width=" in row  # of the file it shares with the other cells
    assert "| `power-diffusion` |" not in page
    rows = [line for line in lines if line.startswith("| `power-diffusion-")]
    assert len(rows) == len(list((CONFIG_DIRECTORY / "preset").glob("power-diffusion-*.yaml")))


def test_an_option_inherits_the_comments_of_its_base_and_not_its_value() -> None:
    option = read_option(CONFIG_DIRECTORY, "data", "simulated")
    assert option.bases == ("real",)
    assert list(option.own) == ["data.source"]
    assert option.entries["data.source"].value == "simulated"
    assert option.entries["data.num_days"].meaning


def test_what_an_option_brings_along_is_told(page: str) -> None:
    section = page.split("### task=power_released\n")[1].split("\n#")[0]
    assert "It also sets `decision.num_scenarios=25`" in section
    section = page.split("### task=synthetic\n")[1].split("\n#")[0]
    assert "It also sets `data=simulated`, `decision.num_scenarios=5000`" in section


def test_a_sign_in_a_quoted_value_is_no_comment() -> None:
    text = 'first: "a # b"  # said\nsecond:  # more\n  third: [1, 2]\n'
    entries, sections = read_entries(text, "task.")
    assert entries["task.first"].value == '"a # b"'
    assert entries["task.first"].meaning == "said"
    assert entries["task.second.third"].value == "[1, 2]"
    assert sections == {"task.second": "more"}


def test_the_keys_that_are_no_part_of_the_identity_are_named(page: str) -> None:
    (line,) = [line for line in page.splitlines() if "no part of its identity" in line]
    for key in compose._INCIDENTAL:
        assert f"`{key}`" in line
