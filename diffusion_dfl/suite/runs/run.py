"""One run: who may do it, whether it is done, and how it ended."""

import errno
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusion_dfl.errors import RunFailed, UserError
from diffusion_dfl.suite.config.compose import identify, validate
from diffusion_dfl.suite.invocation import verb
from diffusion_dfl.suite.places import REPOSITORY
from diffusion_dfl.suite.runs.compile import check_parts
from diffusion_dfl.suite.runs.directory import RunDirectory, fit_directory, secrets_of
from diffusion_dfl.suite.runs.environment import source_hash
from diffusion_dfl.suite.runs.execution import Execution
from diffusion_dfl.suite.runs.job_log import records_kept, run_log, without_paths
from diffusion_dfl.suite.runs.mirroring import names_of
from diffusion_dfl.suite.runs.signals import stoppable
from diffusion_dfl.training.device import resolve_device

logger = logging.getLogger(__name__)

# What helps where a file cannot be written in the middle of a run.
_MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable"),
    errno.EIO: "look after the disk or the file server",
}


def run(config: DictConfig, worker: int = 0) -> dict[str, Any]:
    """Do one run, or find it done, and return its record.

    Args:
        config: composed.
        worker: number of the job in its sweep; where there are several CUDA devices and none is
            named, jobs take them in turn.

    Raises:
        UserError: a configuration or data that cannot work; nothing has been trained, and what was on
            disk is as it was.
    """
    source_hash()  # Of the source that runs, not of what is on disk when it ends.
    identity = identify(config)
    validate(config)
    device = resolve_device(config.device, worker)
    check_parts(config)
    directory = RunDirectory(
        Path(config.output.root, "runs") / identity.path, f"{identity.path} {identity.config_hash}"
    )
    prepare = partial(_prepared, config, identity, device, directory)
    with _told_of_the_disk(directory.path), stoppable():
        # Before anything is on disk: what is refused leaves no run behind.
        ready = None if directory.path.exists() else prepare()
        with directory.locked():
            if not config.force:
                directory.refuse_other(config)
                done = directory.finished_summary()
                if done is not None:
                    _tell_of_mirrors(config, directory)
                    return done
                if directory.status == "failed" and not config.retry_failed:
                    raise UserError(
                        f"{directory.path} failed before ({directory.reason}) and retry_failed=false "
                        "leaves it so; its failures.log has the traceback"
                    )
                for one in (directory, fit_directory(config)):
                    one.check_versions(config.accept_source_change)
            # A run that is there stays as it is where this one is refused.
            this, said = ready or prepare()
            directory.claim(config, config.force)
            secrets = secrets_of(config)
            with run_log(directory.path / "run.log", directory.lease.held, secrets, said):
                return _attempt(config, this, directory)


def _prepared(config: DictConfig, *parts: Any) -> tuple[Execution, list[logging.LogRecord]]:
    """The run, refused if it cannot be trained, and what was logged of that."""
    try:
        with records_kept() as said:
            return Execution(config, *parts), said
    except OSError as error:
        if error.errno not in _MENDS:
            raise
        # Nothing is written here; the output is not to blame.
        file = error.filename if isinstance(error.filename, str) else f"data={config.data.source}"
        raise UserError(
            f"{file}: the data cannot be read ({error.strerror}); make them readable or choose others with "
            "data=NAME"
        ) from error


def _tell_of_mirrors(config: DictConfig, directory: RunDirectory) -> None:
    logger.info("%s is finished; add force=true to run it again", directory.path)
    for name in names_of(config):
        logger.info(
            "logger=%s: `%s %s --to %s` makes its mirror from its files",
            name,
            verb("mirror"),
            directory.path,
            name,
        )


@contextmanager
def _told_of_the_disk(path: Path) -> Iterator[None]:
    """What a disk refuses becomes one line with its mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MENDS:
            raise
        file = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
        raise UserError(
            f"{path} cannot be written ({file}{error.strerror}); {_MENDS[error.errno]} and repeat the "
            "command, which goes on from the last epoch that was saved"
        ) from error


def _attempt(config: DictConfig, this: Execution, directory: RunDirectory) -> dict[str, Any]:
    """Do the run and tell how it ended."""
    try:
        directory.set_status("running")
        return this.execute()
    except BaseException as error:
        directory.lease.check()  # What another process has taken over is its own to tell.
        kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        said = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        reason, trace = without_paths(said, secrets_of(config)), _traceback(secrets_of(config))
        with suppress(OSError):  # A full disk must not hide what happened.
            directory.set_status(kind, reason=reason, traceback=trace)
            if kind == "failed":
                directory.lease.append(directory.path / "failures.log", trace + "\n")
        if isinstance(error, RunFailed):
            raise type(error)(f"{directory.path}: {error}") from error
        raise


def _traceback(secrets: Sequence[str]) -> str:
    """The traceback with paths from the package on, so that records name no machine."""
    text = traceback.format_exc()
    text = text.replace(str(REPOSITORY), ".").replace(sys.prefix, "<environment>")
    return without_paths(text, secrets)
