"""What a run is to the tables: one of their runs, a twin, a variant, or of an earlier preset.

A published run was told when it was published. What a user's own run is, today's presets say; only
for these configurations are composed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.identities import identity_of

RUN, TWIN, VARIANT = "run", "twin", "variant"

#: What composing raises for words no run would take.
REFUSED = (UserError, HydraException, OmegaConfBaseException)

#: Role of a run that today's presets no longer make.
STALE = "stale"

# What a twin changes. A cell without a fit loss of its own needs one to have a twin, and every row has
# the c that costs it least.
_TWIN_WEIGHT = "grad.decision_weight"
TWIN_KEYS = {_TWIN_WEIGHT, "grad.fit_weight", "decision.bandwidth_scale"}

#: What `differs` has beyond changes: the data source is part of a table's name.
SOURCE = "data.source"


@dataclass(frozen=True)
class Role:
    """What a run is to its table.

    Attributes:
        name: `RUN`, `TWIN`, `VARIANT` or `STALE`; empty where that is not known.
        preset: hash of the preset it is a run or a variation of; empty where none is.
    """

    name: str = ""
    preset: str = ""


def role_name(differs: Mapping[str, Any]) -> str:
    """Role of a run of a current configuration, by what it changes in its preset."""
    keys = differs.keys() - {SOURCE}
    if not keys:
        return RUN
    return TWIN if is_twin(differs) and keys <= TWIN_KEYS else VARIANT


def is_twin(differs: Mapping[str, Any]) -> bool:
    """Whether these changes make a run the twin with decision weight 0 of another."""
    return differs.get(_TWIN_WEIGHT) == 0


def todays_role(identity: Mapping[str, Any]) -> Role:
    """Role of a run by today's presets.

    Args:
        identity: of its summary.json.
    """
    differs = identity["differs"]
    try:
        preset = todays_hash(identity, {key: differs[key] for key in {SOURCE} & differs.keys()})
    except REFUSED:
        return Role()  # A task, model or grad of the user's own.
    try:
        current = todays_hash(identity, differs)
    except REFUSED:
        return Role(STALE)
    return Role(role_name(differs), preset) if current == identity["config_hash"] else Role(STALE)


def todays_hash(identity: Mapping[str, Any], differs: Mapping[str, Any]) -> str:
    """Hash of the configuration of a cell with these changes, as it would be run today.

    Raises:
        REFUSED: it does not compose.
    """
    words = [f"{key}={identity[key]}" for key in ("task", "scale")]
    words += [f"data={differs[SOURCE]}"] if SOURCE in differs else []
    words += [f"{key}={identity[key]}" for key in ("model", "grad")]
    words += [f"{key}={literal(value)}" for key, value in differs.items() if key != SOURCE]
    return identity_of(tuple(words)).config_hash


def literal(value: Any) -> str:
    """A JSON value in the grammar of Hydra's overrides."""
    if isinstance(value, str):
        return QuotedString(text=value, quote=Quote.single).with_quotes()
    return json.dumps(value)


def changes_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Key and value of ``key=value`` words, as a record's ``differs`` has them."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.key_or_group: _plain(override.value()) for override in parsed}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.text if isinstance(value, QuotedString) else value
