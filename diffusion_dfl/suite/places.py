"""Where the package, its configuration and, in a clone, the repository are."""

from pathlib import Path

#: The folder of ``diffusion_dfl``.
PACKAGE = Path(__file__).resolve().parents[1]

#: The clone that the package runs from; meaningless where it is installed from a wheel.
REPOSITORY = PACKAGE.parent

_INSTALLED = PACKAGE / "suite" / "conf"

#: ``conf/`` of a clone; a wheel brings it inside the package.
CONFIG_DIRECTORY = _INSTALLED if _INSTALLED.is_dir() else REPOSITORY / "conf"
