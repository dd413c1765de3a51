"""Scripts in processes of their own that need not import torch anew."""

import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from diffusion_dfl.suite.config import identities

ROOT = Path(__file__).resolve().parents[1]


def forked(
    script: Path,
    *arguments: str,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> "subprocess.CompletedProcess[str]":
    """What ``subprocess.run`` gives of ``python SCRIPT ARGUMENTS``, in a fork of this process.

    Args:
        environment: of the process; None for this one's.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = multiprocessing.get_context("fork").Process(
            target=_become,
            args=(script, arguments, folder, environment, out.fileno(), err.fileno()),
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([str(script), *arguments], timeout)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read())
        return subprocess.CompletedProcess([str(script), *arguments], process.exitcode, *said)


def _become(
    script: Path,
    arguments: tuple[str, ...],
    folder: Path,
    environment: Mapping[str, str] | None,
    out: int,
    err: int,
) -> None:
    """Run the script with the state of a new process, as far as it is not imported modules."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    os.chdir(folder)
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    warnings.resetwarnings()
    warnings.simplefilter("default")
    warnings.simplefilter("ignore", DeprecationWarning)
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)
    GlobalHydra.instance().clear()
    identities._forget()
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
