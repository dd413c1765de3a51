"""What ``python train.py --help`` lists: every choice with the comment at the head of its file.

Read from the folders that Hydra composes from, a user's ``--config-dir`` among them, as text: neither
torch nor a composed configuration is needed.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.config.options import read_choices

#: Groups in the order in which they are listed; groups of a user's own follow.
_ORDER = ("task", "model", "grad", "scale", "data", "logger")
# Nobody chooses these by name: presets and sizes come by themselves, schemas are types.
_UNSEEN = ("preset", "size", "schema", "hydra")
_WIDTH = 100


def register_help() -> None:
    """Make ``${choices:SOURCES}`` known to OmegaConf, for ``hydra.help`` of ``conf/config.yaml``."""
    OmegaConf.register_new_resolver(
        "choices", lambda sources: _escaped(choices(_folders(sources))), replace=True
    )


def choices(folders: Sequence[Path]) -> str:
    """The listing: a heading a group, a line an option, the pairs of model and grad, the presets.

    Args:
        folders: where configurations are, the one with ``config.yaml`` among them.
    """
    headings = _headings(folders)
    found = {
        path.name
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.is_dir()
    }
    shown = [group for group in _ORDER if group in found]
    shown += sorted(found - set(_ORDER) - set(_UNSEEN))
    parts = []
    for group in shown:
        meaning, default = headings.get(group, ("", ""))
        lines = {name: description(path) for name, path in options(folders, group).items()}
        if lines:
            heading = f"{group}=  {meaning}".rstrip()
            heading += f" (default: {default})" if default else ""
            parts.append("\n".join([heading, *_columns(lines)]))
    parts.append("\n".join(["Pairs of model and grad", *_columns(_pairs(_models(folders)))]))
    presets = _presets(folders)
    if presets:
        title = "Presets, tuned values of a task, model and grad that come by themselves"
        parts.append("\n".join([title, *_columns(presets)]))
    return "\n\n".join(parts) + "\n"


def options(folders: Sequence[Path], group: str) -> dict[str, Path]:
    """Name -> file of every option of a group, by name; the first folder that has it counts."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / group).glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def description(path: Path) -> str:
    """The first line of comment at the head of a file, or its first sentence; empty if none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            return re.split(r"(?<=[a-z)]\.) (?=[A-Z])", line.lstrip("#").strip())[0]
    return ""


def _models(folders: Sequence[Path]) -> list[str]:
    """Models that are there and whose pairs are known, in the order of :data:`CELLS`."""
    there = options(folders, "model")
    return [model for model in CELLS if model in there]


def _pairs(models: Sequence[str]) -> dict[str, str]:
    return {f"model={model}": "grad=" + ",".join(CELLS[model]) for model in models}


def _presets(folders: Sequence[Path]) -> dict[str, str]:
    """Task -> its cells with a preset; files that presets share are no cell of their own."""
    cells: dict[str, list[str]] = {}
    for name in options(folders, "preset"):
        task, *cell = name.split("-")
        if len(cell) == 2:
            cells.setdefault(task, []).append("-".join(cell))
    return {task: ", ".join(found) for task, found in cells.items()}


def _headings(folders: Sequence[Path]) -> Mapping[str, tuple[str, str]]:
    """Group -> what it is, and its default: the defaults list of ``config.yaml``."""
    for folder in folders:
        file = folder / "config.yaml"
        if file.exists():
            entries = read_choices(file.read_text(encoding="utf-8"))
            # What stands behind the colon names the options, which are listed here.
            return {
                group: (entry.meaning.partition(":")[0], entry.value)
                for group, entry in entries.items()
            }
    return {}


def _columns(lines: Mapping[str, str]) -> list[str]:
    """``  name   text`` with the texts below each other, wrapped."""
    width = max((len(name) for name in lines), default=0) + 4
    return [
        textwrap.fill(
            text or "(no description)",
            _WIDTH,
            initial_indent=f"  {name}".ljust(width),
            subsequent_indent=" " * width,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in lines.items()
    ]


def _folders(sources: Any) -> list[Path]:
    """Folders among Hydra's config sources, in the order in which they are searched."""
    return [Path(source.path) for source in sources if source.schema == "file"]


def _escaped(text: str) -> str:
    """For Hydra, which looks for ``$NAME`` in a help text."""
    return re.sub(r"\$", "$$", text)
