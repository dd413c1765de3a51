"""Versions of the site beside each other, as a release deploys them.

A version stands in a folder of its own, ``site/0.2.0``; ``versions.json`` lists them, newest first, for
the switch in the head of every page, and ``latest/`` and the first page lead to the newest.
"""

import json
import re
from pathlib import Path

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import write_text

_FORM = re.compile(r"\d+\.\d+\.\d+")

_REDIRECT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Diffusion-DFL</title>
<meta http-equiv="refresh" content="0; url={target}">
<link rel="canonical" href="{target}">
<p><a href="{target}">The newest version</a></p>
</html>
"""


def check(version: str) -> str:
    """The version itself.

    Raises:
        UserError: one that is no MAJOR.MINOR.PATCH.
    """
    if not _FORM.fullmatch(version):
        raise UserError(f"VERSION={version} must be MAJOR.MINOR.PATCH, e.g. 0.2.0")
    return version


def index(site: Path) -> list[str]:
    """Write ``versions.json`` and the redirects of the versions there are in ``site``, newest first."""
    found = [path.parent.name for path in site.glob("*/index.html")]
    versions = sorted(
        (name for name in found if _FORM.fullmatch(name)),
        key=lambda name: tuple(map(int, name.split("."))),
        reverse=True,
    )
    listed = [
        {"version": name, "title": name, "aliases": ["latest"] if name == versions[0] else []}
        for name in versions
    ]
    write_text(site / "versions.json", json.dumps(listed, indent=1) + "\n")
    newest = f"{versions[0]}/index.html"
    (site / "latest").mkdir(exist_ok=True)
    write_text(site / "index.html", _REDIRECT.format(target=newest))
    write_text(site / "latest" / "index.html", _REDIRECT.format(target=f"../{newest}"))
    return versions
