"""What a wheel has that a clone has elsewhere: conf/ inside the package, and a README whose links lead out.

A clone, editable or not, reads conf/ where it stands.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_LINK = re.compile(r"\[((?:!\[[^\]]*\]\([^)\s]*\)|[^\[\]])*)\]\(([^)\s]+)\)")


class BringConfiguration(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["conf"] = "diffusion_dfl/suite/conf"


class DescribeProject(MetadataHookInterface):
    """README.md as the description, which is read where the repository's files are not."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": portable(text, repository)}


def portable(text: str, repository: str | None) -> str:
    """Markdown with absolute links alone.

    Args:
        text: with links from the root of the repository; ``../../`` are pages of its host.
        repository: its address; without one links become their text and pictures go.
    """

    def address(target: str, kind: str) -> str:
        if re.match(r"https?://|#", target):
            return target
        if repository is None:
            return ""
        page = target.removeprefix("../../")
        return f"{repository.rstrip('/')}/{page if page != target else f'{kind}/main/{target}'}"

    def image(found: re.Match[str]) -> str:
        target = address(found[2], "raw")
        return f"![{found[1]}]({target})" if target else ""

    def link(found: re.Match[str]) -> str:
        target = address(found[2], "blob")
        return f"[{found[1]}]({target})" if target and found[1] else found[1]

    return _LINK.sub(link, _IMAGE.sub(image, text))
