"""A run's mirrors: those it writes as it goes, and those made anew from what it left."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import is_plain, printable
from diffusion_dfl.suite.config.commands import identity_of_record
from diffusion_dfl.suite.config.compose import Identity, digest, fit_path
from diffusion_dfl.suite.config.schema import MADE
from diffusion_dfl.suite.loggers import Mirror, Mirrors, RunFacts
from diffusion_dfl.suite.runs.directory import RunDirectory, stored_config, without_places
from diffusion_dfl.suite.runs.form import check_record
from diffusion_dfl.suite.runs.trust import read_yaml

logger = logging.getLogger(__name__)

_FILES = ("summary.json", "config.yaml", "env.json", "metrics.jsonl", "rows.csv")

Makers = dict[str, Callable[[RunFacts], Mirror]]


def facts(config: DictConfig, identity: Identity, directory: Path) -> RunFacts:
    """What mirrors say about a run."""
    place = identity.path
    container = OmegaConf.to_container(without_places(config))
    assert isinstance(container, dict)
    return RunFacts(
        identity.task,
        directory,
        group=f"{identity.task}/{place.parent.name}",
        name=f"{place.parent.name}-s{identity.seed}",
        key=digest([place.as_posix(), identity.config_hash], 16),
        tags=(identity.task, identity.model, identity.grad, identity.scale, identity.source),
        config={str(key): value for key, value in container.items()},
    )


def makers(
    names: Sequence[str], project: str, entity: str | None = None, tags: Sequence[str] = ()
) -> Makers:
    """Makers of ``wandb`` and ``tensorboard``; packages are imported when they are called."""
    found: Makers = {}
    if "wandb" in names:
        from diffusion_dfl.suite.loggers.wandb import WandbMirror

        found["wandb"] = partial(WandbMirror, project=project, entity=entity, tags=tuple(tags))
    if "tensorboard" in names:
        from diffusion_dfl.suite.loggers.tensorboard import TensorBoardMirror

        found["tensorboard"] = TensorBoardMirror
    return found


def names_of(config: DictConfig) -> list[str]:
    """The mirrors that ``logger=`` asks for."""
    return [name for name in ("wandb", "tensorboard") if config.logger[name]]


def makers_of(config: DictConfig) -> Makers:
    """:func:`makers` of the mirrors that ``logger=`` asks for."""
    settings = config.logger
    return makers(names_of(config), settings.project, settings.entity, settings.tags)


def files(directory: Path) -> list[Path]:
    """What mirrors keep of a finished run."""
    return [path for path in (directory / name for name in _FILES) if is_plain(path)]


def mirror(path: Path, made: Makers) -> int:
    """Make a finished run's mirrors from its files; nothing is trained and no code of its own runs.

    Args:
        path: of the run.
        made: which.

    Returns:
        How many epochs they tell.

    Raises:
        UserError: no finished run, or damaged files.
    """
    for name in made:
        if (path / name).is_symlink():
            raise UserError(
                f"{path / name} is a link, and what it leads to would be replaced; remove it"
            )
    directory = RunDirectory(path)
    summary = directory.finished_summary()
    if summary is None:
        raise UserError(
            f"{path}: the run is {printable(directory.status, 20)}, and finished with all it left only if "
            "its files are as they were; repeat its command"
        )
    try:
        named = read_yaml(path / "config.yaml")
        check_record(summary)
        config = stored_config(path / "config.yaml", None, [named[g]["_target_"] for g in MADE])
        mirrors = Mirrors(facts(config, identity_of_record(summary), path), made)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} holds no run ({type(error).__name__}: {error})") from None
    above = path.resolve().parents
    fitted = RunDirectory(above[3] / fit_path(config)).metrics.lines() if len(above) > 3 else []
    if not fitted:
        logger.warning(
            "%s: its two-stage fit is not beside it, so that the mirror has the epochs of training alone",
            path,
        )
    epochs = [*fitted, *directory.metrics.lines()]
    for told in epochs:
        values = {key: value for key, value in told.items() if key not in ("stage", "epoch")}
        mirrors.epoch(str(told["stage"]), int(told["epoch"]), values)
    mirrors.record(summary, files(path))
    mirrors.close(finished=True)
    if mirrors.given_up:
        raise UserError(f"{path}: no mirror was made, for the reason above")
    return len(epochs)
