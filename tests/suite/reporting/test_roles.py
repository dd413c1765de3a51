"""What a run is to the tables, by today's presets."""

import json
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.reporting.roles import Role, changes_of, literal, todays_role
from tests.configs import composed

WORDS = ["task=portfolio", "scale=smoke", "model=gaussian", "grad=score"]


def identity_today(*changes: str) -> dict[str, Any]:
    return vars(identify(composed([*WORDS, *changes])))


def test_the_role_of_an_own_run_is_what_train_would_run_today() -> None:
    preset = identity_today()
    assert todays_role(preset) == Role("run", preset["config_hash"])
    twin = identity_today("grad.decision_weight=0")
    assert todays_role(twin) == Role("twin", preset["config_hash"])
    variant = identity_today("decision.num_scenarios=7", "grad.decision_weight=0")
    assert todays_role(variant) == Role("variant", preset["config_hash"])
    assert todays_role({**preset, "config_hash": "old"}).name == "stale"
    assert todays_role({**variant, "differs": {"no.such_key": 1}}).name == "stale"
    assert todays_role({**preset, "task": "mine"}) == Role()


def test_another_source_is_no_change() -> None:
    other = identity_today("data=skfolio")
    assert other["differs"] == {"data.source": "skfolio"}
    assert todays_role(other) == Role("run", other["config_hash"])


def test_words_of_the_command_line_are_the_values_of_a_record() -> None:
    words = ["task.temperatures=false", "a.b=3", "a.c=1e-5", "a.d=null", "a.e='x'", "a.f=[1,two]"]
    assert changes_of(words) == {
        "task.temperatures": False, "a.b": 3, "a.c": 1e-5, "a.d": None, "a.e": "x",
        "a.f": [1, "two"],
    }  # fmt: skip


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "two words", "it's \\ here", [1, "a,b"]])
def test_a_changed_value_survives_the_way_through_the_override_grammar(value: Any) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={literal(value)}"])
    parsed = override.value()
    if isinstance(parsed, list):
        parsed = [getattr(item, "text", item) for item in parsed]
    assert json.dumps(getattr(parsed, "text", parsed)) == json.dumps(value)
