"""A sweep's plan, written before it starts, and what became of it, told at its end."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import parse_json, read_text

logger = logging.getLogger(__name__)

# A key of ours with its value; nothing of Hydra's, nothing to be resolved, no endless seeds.
_PLANNED = re.compile(r"(?!hydra|seed=.*\d{6})[A-Za-z_][\w.@/]*=(?!.*\$\{)[^\x00-\x1f]*")
_MULTIRUN = {"-m", "--multirun"}
# Overrides that say where and how, not what; they are no part of a plan.
_INCIDENTAL = (
    "hydra/",
    "hydra.",
    "force=",
    "retry_failed=",
    "accept_source_change=",
    "device=",
    "logger",
)


@contextmanager
def sweep_report(arguments: Sequence[str]) -> Iterator[None]:
    """Write a sweep's plan before the block, and print planned against finished after it.

    Args:
        arguments: normalised; anything but a sweep over a grid passes untouched.
    """
    typed, folder = _without_folder(arguments)
    words = planned_words(typed)
    if words is None:
        yield
        return
    root = _root(words)
    if folder is None:  # Elsewhere these words would mean nothing.
        _keep(root, words)
    try:
        yield
    finally:
        # Whatever goes wrong in the telling must not hide what went wrong in the sweep.
        try:
            _view(root, words, folder)
        except Exception as error:
            logger.warning("the sweep's view could not be made: %s", error)


def _without_folder(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without ``--config-dir``, and its folder if there is one."""
    words, folder = list(arguments), None
    for flag in ("-cd", "--config-dir"):
        if flag in words:
            place = words.index(flag)
            folder = Path(words[place + 1])
            del words[place : place + 2]
    for word in [word for word in words if word.startswith("--config-dir=")]:
        words.remove(word)
        folder = Path(word.partition("=")[2])
    return words, folder


def planned_words(arguments: Sequence[str]) -> list[str] | None:
    """The overrides that span a sweep's grid; None for what is no such sweep."""
    flags = {argument for argument in arguments if argument.startswith("-")}
    if not flags & _MULTIRUN or flags - _MULTIRUN:
        return None
    words = [word for word in arguments if not word.startswith("-")]
    if any(word.startswith("hydra/sweeper=") for word in words):
        return None  # A sweeper that chooses as it goes has no grid.
    return [word for word in words if not word.startswith(_INCIDENTAL)]


def _root(words: Sequence[str]) -> Path:
    roots = [word.split("=", 1)[1] for word in words if word.startswith("output.root=")]
    return Path(roots[-1] if roots else "results")


def _plans(root: Path) -> Path:
    return root / "sweeps" / "plans.jsonl"


def _keep(root: Path, words: Sequence[str]) -> None:
    """Add a plan to those of this results folder, once; a folder that cannot be written shows later."""
    kept = sorted(word for word in words if not word.startswith("output.root="))
    if kept in started(root):
        return
    with suppress(OSError):
        _plans(root).parent.mkdir(parents=True, exist_ok=True)
        with _plans(root).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(kept) + "\n")


def started(root: Path) -> list[list[str]]:
    """Overrides of the sweeps that were started with this results folder."""
    try:
        lines = read_text(_plans(root)).splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read: %s", _plans(root), error)
        return []
    found = []
    for line in lines:
        try:
            words = parse_json(line)
        except ValueError:
            continue
        # Words of a sweep and no others: a plan may come from anybody.
        if isinstance(words, list) and all(
            isinstance(w, str) and _PLANNED.fullmatch(w) for w in words
        ):
            found.append(words)
    return found


def _view(root: Path, words: Sequence[str], folder: Path | None) -> None:
    # Imported late: composing configurations takes longer than starting.
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    from diffusion_dfl.suite.config.identities import searching
    from diffusion_dfl.suite.reporting.status import overview, plan, state

    GlobalHydra.instance().clear()
    try:
        with searching(folder):
            runs = plan(words, every_pair=False)
    except (UserError, HydraException):
        return  # Words no run was made of; the error is told by itself.
    if len(runs) < 2:
        return
    states = {run: state(root, run) for run in runs}
    if all(found.name == "finished" for found in states.values()):
        print(f"{len(runs)} of {len(runs)} runs are finished", flush=True)
    else:
        print(overview(states), flush=True)
