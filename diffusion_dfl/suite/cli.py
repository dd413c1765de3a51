"""The command line around Hydra: arguments made readable, errors made one message."""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import (
    BooleanNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    StringNode,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from diffusion_dfl.errors import RunFailed, UserError, WorkerLost
from diffusion_dfl.suite.completion import completing
from diffusion_dfl.suite.config import synonyms
from diffusion_dfl.suite.config.arguments import (
    BARE,
    CONFIG_DIRECTORY,
    misread,
    normalise,
    taken_as_it_stands,
)
from diffusion_dfl.suite.config.catalogue import options, register_help
from diffusion_dfl.suite.config.own import refuse_missing
from diffusion_dfl.suite.invocation import start
from diffusion_dfl.suite.sweep import sweep_report

#: What bad input raises; `explain` makes one line of it.
REFUSALS = (UserError, HydraException, OmegaConfBaseException)

# What a key of a schema takes.
_KINDS: dict[type, str] = {
    IntegerNode: "an integer",
    FloatNode: "a number",
    BooleanNode: "true or false",
    StringNode: "a text",
    ListConfig: "a list, [a,b]",
}
# Names above which the nearest one says more than all.
_MANY = 20
# Of the jobs of this process, by what they said; the number of the process tells it from a launcher's.
_failed: dict[str, Exception] = {}
# Words of the jobs of a sweep, and of those that were refused, by what refused them.
_jobs: list[Sequence[str]] = []
_refused: dict[str, list[Sequence[str]]] = {}
_process = 0

# Launchers that come in packages of their own.
_LAUNCHERS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}


@contextmanager
def job(words: Sequence[str] | None = None) -> Iterator[None]:
    """One job: what stops it is told in one line, and the others of its sweep go on.

    In another process, where a launcher has put the job, the error goes up to the launcher.

    Args:
        words: its overrides, by which it is named at the end of the sweep; None for a single run.
    """
    if words is not None:
        _jobs.append(words)
    try:
        yield
    except (UserError, RunFailed) as error:
        if os.getpid() != _process:
            raise
        if words is not None and isinstance(error, UserError):
            _refused.setdefault(str(error), []).append(words)
        if str(error) not in _failed:  # Ten seeds of one mistake are one mistake.
            _failed[str(error)] = error
            fail(_message(error))


def _tell_of_refused() -> None:
    """Name the refused jobs of a sweep by the words they do not share with all, and each reason once."""
    shared = set(_jobs[0]).intersection(*_jobs) if _jobs else set()
    for reason, jobs in _refused.items():
        named = [" ".join(word for word in words if word not in shared) for words in jobs]
        print(f"refused: {'; '.join(filter(None, named)) or 'the run'}: {reason}", flush=True)


def _message(error: Exception) -> str:
    if isinstance(error, RunFailed) and not isinstance(error, WorkerLost):
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
    for kept in (_failed, _jobs, _refused):
        kept.clear()
    configure_logging()
    # Numeric libraries read these when they load; a worker with a thread a core starves the others.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    bare = len(sys.argv) == 1
    register_help()
    try:
        sys.argv[1:] = normalise(sys.argv[1:])
        refuse_unknown(sys.argv[1:])
        if bare:
            logging.getLogger(__name__).info("no arguments: running %s", " ".join(BARE))
        # Hydra would print its own version of an error and exit; here it is raised.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        with completing(sys.argv[1:]), sweep_report(sys.argv[1:]):
            main()
        _tell_of_refused()
        if _failed:
            return 2 if all(isinstance(error, UserError) for error in _failed.values()) else 1
    except RunFailed as error:
        return fail(_message(error), 1)
    except REFUSALS as error:
        return fail(explain(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) or _in_a_run(error):
            raise
        # Hydra makes a sweep's folder below output.root before its first run starts.
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
        if trace.tb_frame.f_globals.get("__name__") == "diffusion_dfl.suite.runs.run":
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
    if isinstance(error, OverrideParseException):
        return misread(error.override)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, wrong = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        known = sorted(error.options)
        if group == "hydra/launcher" and wrong in _LAUNCHERS:
            return f"{group}={wrong} needs a package; `pip install {_LAUNCHERS[wrong]}` adds it"
        ours = synonyms.choice(group, wrong)
        if ours in known:
            return f"{group}={wrong}: here it is {group}={ours}. Choices: {', '.join(known)}"
        return f"{group}={wrong}: there is no such choice; {_nearest(wrong, known)}"
    if isinstance(error, InterpolationResolutionError) and error.parent_node is not None:
        word = f"{error.full_key}={error.parent_node._get_node(error.key)}"
        return (
            f"{word}: ${{...}} stands for another key, and {lines[0]}; if it is part of a name: "
            f"{taken_as_it_stands(word)}"
        )
    cause = error.__cause__ or error.__context__
    inner = cause if isinstance(cause, OmegaConfBaseException) else error
    if isinstance(inner, ConfigTypeError):  # A list in place of a key that holds others.
        word = lines[0].removeprefix("Error merging override ")
        return f"{word}: {word.partition('=')[0]} holds other keys; {_all_keys()}"
    if isinstance(inner, ConfigKeyError | ConfigAttributeError):
        # Hydra's message has the key as it was typed, OmegaConf's the part it looked for.
        typed = re.search(r"Could not override '([^']+)'", str(error))
        full, looked_for = typed.group(1) if typed else "", str(inner.full_key or "")
        if not full or looked_for.startswith(f"{full}."):  # `train={epoch: 3}`
            full = looked_for
        root = inner.parent_node._get_root() if inner.parent_node is not None else {}
        return f"{full}: there is no such key; {_meant(full, _paths(root))}{_all_keys()}"
    if isinstance(inner, ValidationError):
        section = OmegaConf.select(inner.parent_node, str(inner.key)) if inner.parent_node else None
        if isinstance(section, DictConfig):
            keys = [f"{inner.full_key!s}.{key!s}" for key in section]
            return f"{inner.full_key!s} holds other keys: {', '.join(keys)}; set one of them"
        return _mistyped(str(error), inner)
    return "; ".join(lines)


def _mistyped(said: str, error: ValidationError) -> str:
    """A value of another type than its key's: what it must be, by the schema and by the value there is."""
    key, reason = str(error.full_key), str(error).splitlines()[0]
    typed = re.search(r"Error merging override (.*)", said)
    value = re.search(r"Value '(.*?)'", reason)
    word = typed.group(1) if typed else f"{key}={value.group(1)}" if value else key
    file = re.match(r"In '([^']+)'", said)
    place = f" (in {file.group(1)}.yaml)" if file else ""
    node: Any = error.parent_node._get_node(error.key) if error.parent_node is not None else None
    kind = None if node is None else _KINDS.get(type(node))
    if kind is None:
        return f"{word}{place}: {reason}; {_all_keys()} with its value"
    if not word.startswith(f"{key}=") and typed:
        return f"{word}: {key} is {kind} and holds no other keys; {_all_keys()}"
    kind += " or null" if node._is_optional() else ""
    present = node._value()
    mend = f"; {_all_keys()} with its value"
    if present is not None and not isinstance(present, list):
        mend = f", as in {key}={str(present).lower() if isinstance(present, bool) else present}"
    listed = re.fullmatch(r"[^=]+=\[(.*)\]", word)
    if listed and not isinstance(node, ListConfig):
        mend += f"; to run several values: {key}={listed.group(1)} -m"
    return f"{word}{place} must be {kind}{mend}"


def _all_keys() -> str:
    return f"`{start()} --cfg job` shows every key"


def refuse_unknown(arguments: Sequence[str]) -> None:
    """Refuse flags that Hydra does not have, and presets, folders and configurations that are not there.

    Argparse would print its usage for the first; presets Hydra passes over, since a cell need not have
    one.

    Args:
        arguments: normalised.

    Raises:
        UserError: naming the nearest there is.
    """
    parser = get_args_parser()
    parser.error = _refuse_flags  # type: ignore[method-assign]
    flags, unknown = parser.parse_known_args(list(arguments))
    known = [flag for action in parser._actions for flag in action.option_strings]
    if unknown:
        bare = unknown[0].lstrip("-")
        meant = (
            f"an override has no dashes: {bare}"
            if "=" in bare
            else _nearest(unknown[0], sorted(known), "Flags")
        )
        raise UserError(f"{unknown[0]}: there is no such flag; {meant}")
    folders = [CONFIG_DIRECTORY, *config_folders(arguments)]
    for folder in folders[1:]:
        refuse_missing(folder)
    if flags.config_path is not None:
        raise UserError(
            f"--config-path {flags.config_path}: the configuration is conf/ of this project; "
            "--config-dir FOLDER adds a folder of your own to it"
        )
    name = flags.config_name
    if name is not None and not any((one / f"{name}.yaml").is_file() for one in folders):
        raise UserError(
            f"--config-name {name}: there is no {name}.yaml in {' or '.join(map(_shown, folders))}; leave it "
            "out, and choose by task=NAME, model=NAME and grad=NAME"
        )
    for word in arguments:
        group, _, values = word.partition("=")
        if group == "preset":
            there = list(options(folders, "preset"))
            for value in values.split(","):
                if value not in there:
                    mend = f"{_nearest(value, there)} Without preset= a cell gets its own"
                    raise UserError(f"preset={value}: there is no such choice; {mend}")


def _shown(folder: Path) -> str:
    return "conf/" if folder == CONFIG_DIRECTORY else f"{folder}/"


def _refuse_flags(message: str) -> NoReturn:
    raise UserError(message)


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """Folders given with ``--config-dir``."""
    found = get_args_parser().parse_known_args(list(arguments))[0].config_dir
    return [Path(found)] if found else []


def _nearest(wrong: str, known: Sequence[str], title: str = "Choices") -> str:
    near = get_close_matches(wrong, known, n=1)
    if near and len(known) > _MANY:
        return f"did you mean {near[0]}?"
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}{title}: {', '.join(known)}"


def _paths(node: Any, prefix: str = "") -> list[str]:
    """Every key of a configuration with those above it, ``train`` and ``train.epochs``; no Hydra's."""
    found: list[str] = []
    for key, item in (getattr(node, "_content", None) or {}).items():
        path = f"{prefix}{key}"
        if path == "hydra":
            continue
        found.append(path)
        if isinstance(item, DictConfig) and isinstance(item._content, dict):
            found += _paths(item, f"{path}.")
    return found


def _meant(wrong: str, paths: Sequence[str]) -> str:
    """The keys that were most likely meant, as a question; what its parent has if none is near."""
    parent, _, name = wrong.rpartition(".")
    ours = synonyms.KEYS.get(name, "")
    known = [path for path in paths if f".{path}".endswith(f".{ours}") and path.startswith(parent)]
    if "=" in ours or (ours and known):
        return f"here it is {ours if '=' in ours else ' or '.join(known)}; "
    siblings = {
        path.rpartition(".")[2]: path for path in paths if path.rpartition(".")[0] == parent
    }
    near = [siblings[found] for found in get_close_matches(name, siblings, n=1)]
    if not near and parent:
        near = get_close_matches(wrong, paths, n=1, cutoff=0.75)
    if not near:  # `epochs`, of which there are several.
        names = sorted({path.rpartition(".")[2] for path in paths})
        found = get_close_matches(name, names, n=1, cutoff=0.85)
        near = [path for path in paths if path.rpartition(".")[2] in found]
    if near:
        return f"did you mean {' or '.join(near)}? "
    own = [key for key in siblings if key not in ("name", "_target_")]
    if parent and own:
        return f"{parent} has {', '.join(own)}; "
    return ""
