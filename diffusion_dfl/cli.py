"""The command line around Hydra: arguments made readable, errors made one message."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from diffusion_dfl.config.arguments import BARE, normalise
from diffusion_dfl.errors import RunFailed, UserError
from diffusion_dfl.sweep import told

#: What bad input raises; `explain` makes one line of it.
REFUSALS = (UserError, HydraException, OmegaConfBaseException)

# Of the jobs of this process, by what they said; the number of the process tells it from a launcher's.
_failed: dict[str, Exception] = {}
_process = 0

# Launchers that come in packages of their own.
_LAUNCHERS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}


@contextmanager
def job() -> Iterator[None]:
    """One job of a sweep: what stops it is told in one line, and the others go on.

    In another process, where a launcher has put the job, the error goes up to the launcher.
    """
    try:
        yield
    except (UserError, RunFailed) as error:
        if os.getpid() != _process:
            raise
        if str(error) not in _failed:  # Ten seeds of one mistake are one mistake.
            _failed[str(error)] = error
            fail(_told(error))


def _told(error: Exception) -> str:
    if isinstance(error, RunFailed):
        return f"{error}; its status.json has the traceback"
    return explain(error)


def guarded(main: Callable[[], object]) -> int:
    """Normalise ``sys.argv``, call Hydra's main, and turn user errors into one line.

    Returns:
        The exit code: 0, 1 for a failed run, 2 for bad input, 130 for Ctrl-C, 128 and its number for
        another signal.
    """
    global _process
    _process = os.getpid()
    _failed.clear()
    configure_logging()
    # Numeric libraries read these when they load; a worker with a thread a core starves the others.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    bare = len(sys.argv) == 1
    try:
        sys.argv[1:] = normalise(sys.argv[1:])
        if bare:
            logging.getLogger(__name__).info("no arguments: running %s", " ".join(BARE))
        # Hydra would print its own version of an error and exit; here it is raised.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        with told(sys.argv[1:]):
            main()
        if _failed:
            return 2 if all(isinstance(error, UserError) for error in _failed.values()) else 1
    except RunFailed as error:
        return fail(_told(error), 1)
    except REFUSALS as error:
        return fail(explain(error))
    except OSError as error:
        if _in_a_run(error):
            raise
        # Hydra makes its folder below output.root before a run starts.
        return fail(
            f"output.root: cannot write to {error.filename} ({error.strerror}); "
            "make it writable or set output.root=FOLDER"
        )
    except KeyboardInterrupt as error:
        signum = getattr(error, "signum", signal.SIGINT)
        return fail("interrupted; the same command goes on where it stopped", 128 + signum)
    return 0


def fail(message: str, code: int = 2) -> int:
    """Tell an error on stderr; returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return code


def _in_a_run(error: Exception) -> bool:
    """Whether an error came out of a run, not out of what Hydra does before one."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == "diffusion_dfl.training.run":
            return True
        trace = trace.tb_next
    return False


def configure_logging() -> None:
    """Plain lines on stderr; results go to stdout."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("filelock").setLevel(logging.WARNING)


def explain(error: Exception) -> str:
    """One message for bad input: the key, the value and the mend."""
    if isinstance(error, UserError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, wrong = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        options = sorted(error.options)
        if group == "hydra/launcher" and wrong in _LAUNCHERS:
            return f"{group}={wrong} needs a package; `pip install {_LAUNCHERS[wrong]}` adds it"
        return f"{group}={wrong}: there is no such choice; {_nearest(wrong, options)}"
    cause = error.__cause__ or error.__context__
    inner = cause if isinstance(cause, OmegaConfBaseException) else error
    if isinstance(inner, ConfigKeyError | ConfigAttributeError):
        full = str(inner.full_key or "")
        keys = sorted(str(key) for key in getattr(inner.parent_node, "_content", None) or ())
        prefix = full.rpartition(".")[0]
        near = get_close_matches(full.rpartition(".")[2], keys, n=1)
        meant = f"did you mean {prefix + '.' if prefix else ''}{near[0]}? " if near else ""
        return f"{full}: there is no such key; {meant}`python train.py --cfg job` shows every key"
    if isinstance(inner, ValidationError):
        wanted = str(inner).splitlines()[0]
        return f"{inner.full_key}: {wanted}; `python train.py --cfg job` shows every key with its value"
    return "; ".join(lines)


def _nearest(wrong: str, options: Sequence[str]) -> str:
    near = get_close_matches(wrong, options, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}Choices: {', '.join(options)}"
