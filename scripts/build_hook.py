"""Puts conf/ into the wheel; a clone, editable or not, reads it where it stands."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BringConfiguration(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["conf"] = "diffusion_dfl/suite/conf"
