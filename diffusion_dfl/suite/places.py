"""Where the package, its configuration and, in a clone, the repository are."""

import os
from pathlib import Path

#: The folder of ``diffusion_dfl``.
PACKAGE = Path(__file__).resolve().parents[1]

_BROUGHT = PACKAGE / "suite" / "conf"

#: Whether the package is installed from a wheel, which brings ``conf/`` inside it.
INSTALLED = _BROUGHT.is_dir()

#: The clone that the package runs from; where it is installed, the folder it is installed in.
REPOSITORY = PACKAGE.parent

CONFIG_DIRECTORY = _BROUGHT if INSTALLED else REPOSITORY / "conf"


def cache() -> Path:
    """Folder of what can be made again: ``.cache`` of a clone, else one of the user's."""
    if not INSTALLED:
        return REPOSITORY / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "diffusion-dfl")
