"""The command that installs what a part of the package needs beyond the library's dependencies."""

import re
import shlex
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

_NAME = "diffusion-dfl"
_CLONE = Path(__file__).resolve().parents[1]


def installing(extra: str, clone: Path = _CLONE) -> str:
    """A command that adds an extra: of the clone, where the package runs from one, else its packages.

    An installed package is added to by the packages alone, which is right whatever it was installed
    from.

    Args:
        extra: of pyproject.toml.
        clone: folder that holds the package.
    """
    if (clone / "pyproject.toml").is_file():
        place = "." if clone == Path.cwd() else str(clone)
        return f"pip install --editable '{place}[{extra}]'"
    packages = _packages(extra)
    return shlex.join(["pip", "install", *(packages or [f"{_NAME}[{extra}]"])])


def _packages(extra: str) -> list[str]:
    """What an installed package says that an extra needs."""
    try:
        every = requires(_NAME) or []
    except PackageNotFoundError:
        return []
    found: list[str] = []
    for line in every:
        package, _, marker = line.partition(";")
        if not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
            continue
        own = re.fullmatch(rf"{_NAME}\[([\w,-]+)\]", package.strip())
        parts = (
            [p for name in own[1].split(",") for p in _packages(name)] if own else [package.strip()]
        )
        found += [part for part in parts if part not in found]
    return found
