"""A run's directory: who may write in it, what it holds, and how its state is told.

config.yaml     the composed configuration
status.json     running, interrupted, failed with the reason, or finished with the digests of the files
metrics.jsonl   one line an epoch
checkpoint.pt   resumes the run; checkpoint.previous.pt is of the epoch before
weights.pt      the trained predictor
interface.json  names of its features and decisions, and the program, for use without the data
rows.csv        headline number of every test row
summary.json    the record tables read
env.json        versions and device
run.log         what the run said
failures.log    tracebacks of attempts that failed
.owner, .lock   who is in it; the time of .owner is the last sign of life
.writing-*      files being written by who is in it
"""

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.data.download import without_secrets
from diffusion_dfl.errors import UserError
from diffusion_dfl.files import (
    DamagedFile,
    check_plain,
    clear_partials,
    is_plain,
    json_text,
    read_json,
    sha256_of,
)
from diffusion_dfl.suite.config.compose import (
    NEUTRAL,
    code_of,
    deciding_values,
    fit_path,
    name_of_file,
)
from diffusion_dfl.suite.config.own import CODE, GROUPS, is_own
from diffusion_dfl.suite.runs.environment import source_version
from diffusion_dfl.suite.runs.form import epoch_of
from diffusion_dfl.suite.runs.lease import Held, Lease
from diffusion_dfl.suite.runs.trust import check_config, read_yaml
from diffusion_dfl.training.checkpoint import Checkpoint, Version, read_tensors

logger = logging.getLogger(__name__)

# Digests of these are kept when a run ends, so that damage shows.
_KEPT = (
    "config.yaml",
    "summary.json",
    "metrics.jsonl",
    "rows.csv",
    "weights.pt",
    "interface.json",
)


class RunDirectory:
    """One run's files.

    Args:
        path: the directory; made if it does not exist.
        owner: name of what it is for, which its checkpoints carry.
    """

    def __init__(self, path: Path, owner: str = "") -> None:
        self.path, self.owner = path, owner
        self.weights = path / "weights.pt"
        self.summary = path / "summary.json"
        self.metrics = MetricsLog(self)
        self._lease: Lease | None = None

    def checkpoint(self, name: str = "checkpoint", accept_other: bool = False) -> Checkpoint:
        """That of a stage, gone on with by the source that runs.

        Args:
            name: of its file.
            accept_other: whether what another version of the source made is gone on with.
        """
        return Checkpoint(
            self.path / f"{name}.pt",
            self.owner,
            replacing=self.replacing,
            version=source_version(),
            accept_other=accept_other,
        )

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the directory; another process gets a UserError, or waits for its turn.

        Raises:
            UserError: the directory cannot be made or is in use.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lease = Lease(self.path).__enter__()
            except Held:
                if not wait:
                    raise
                logger.info("waiting for another process to make %s", self.path.name)
                lease = Lease(self.path, wait=True).__enter__()
        except OSError as error:
            raise UserError(
                f"output.root: cannot write to {self.path} ({error.strerror}); "
                "make it writable or set output.root=FOLDER"
            ) from error
        self._lease = lease
        try:
            clear_partials(self.path)
            yield
        finally:
            self._lease = None
            lease.__exit__(None, None, None)

    @property
    def lease(self) -> Lease:
        """What every write goes through.

        Raises:
            RuntimeError: the directory is not held.
        """
        if self._lease is None:
            raise RuntimeError(f"{self.path} is written by who holds it; enter locked() first")
        return self._lease

    def replacing(self, path: Path) -> AbstractContextManager[Path]:
        """A temporary path that takes the place of one of the directory's files.

        Raises:
            LeaseLost: another process has taken the directory over.
        """
        return self.lease.replacing(path)

    def write_text(self, name: str, text: str) -> None:
        """A file of the directory, by its name."""
        with self.replacing(self.path / name) as partial:
            partial.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        """:func:`diffusion_dfl.files.json_text` in a file of the directory."""
        self.write_text(name, json_text(value))

    def claim(self, config: DictConfig, force: bool) -> None:
        """Make the directory this configuration's.

        With ``force`` what is there is kept aside first.

        Raises:
            UserError: the directory holds a run of another configuration.
        """
        stored = self.path / "config.yaml"
        if force:
            self._keep_aside()
        self.refuse_other(config)
        if not stored.exists():
            self.write_text(stored.name, OmegaConf.to_yaml(without_places(config)))

    def refuse_other(self, config: DictConfig) -> None:
        """Raise UserError if the directory holds a run of another configuration."""
        stored = self.path / "config.yaml"
        if not stored.exists():
            return
        mine = deciding_values(without_places(config))
        try:
            named = {str(config[group]["_target_"]) for group in GROUPS}
            joined = {key: value for key, value in NEUTRAL.items() if key in mine}
            theirs = joined | deciding_values(stored_config(stored, None, named))
        except UserError as error:
            raise UserError(
                f"{error}; move it away or add force=true, which keeps the old run aside and starts over"
            ) from error
        changed = [
            f"{key} ({theirs.get(key)!r} there, {mine.get(key)!r} here)"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]
        if changed:
            raise UserError(
                f"{self.path} was written by another configuration: {'; '.join(changed[:5])}. "
                "Add force=true to keep that run aside and start over, or set output.root=FOLDER"
            )

    def check_versions(self, accept_other: bool) -> None:
        """Refuse to go on with what a version of the source made that computes otherwise.

        Raises:
            UserError: naming the file, both versions and what allows it.
        """
        for path, made in self._versions():
            self.checkpoint(path.stem, accept_other).check_versions(path, made)

    def keep_other_versions_aside(self) -> None:
        """Begin anew where a version of the source that computes otherwise made what is there."""
        numbers = source_version().numbers
        if any(Version(*made[-1]).numbers != numbers for _, made in self._versions()):
            self._keep_aside()

    def _versions(self) -> Iterator[tuple[Path, list[list[str]]]]:
        """Checkpoints and the versions of the source that made them, where they tell."""
        for path in sorted(self.path.glob("*.pt")):
            with suppress(DamagedFile, FileNotFoundError):  # Which is told when it is gone on with.
                made = read_tensors(path, torch.device("cpu")).get("versions")
                if made:
                    yield path, made

    def _keep_aside(self) -> None:
        items = [item for item in self.path.iterdir() if not item.name.startswith(".")]
        if not items:
            return
        number = 1
        while (old := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        old.mkdir()
        # What says whose it is comes last: a move that was stopped is gone on with.
        for item in sorted(items, key=lambda one: one.name in ("config.yaml", "status.json")):
            self.lease.check()
            shutil.move(str(item), old / item.name)

    @property
    def status(self) -> str:
        """``running``, ``interrupted``, ``finished``, ``failed`` or ``new``."""
        return str(self._state().get("status", "new"))

    def _state(self) -> dict[str, Any]:
        """status.json; empty where it is not there or damaged, which a run makes good."""
        path = self.path / "status.json"
        try:
            told = read_json(path)
        except FileNotFoundError:
            return {}
        except DamagedFile as error:
            logger.warning("%s; the state is told from the other files", error)
            return {}
        return told if isinstance(told, dict) and isinstance(told.get("status"), str) else {}

    @property
    def reason(self) -> str:
        """Why the last attempt failed."""
        return str(self._state().get("reason", ""))

    def set_status(self, status: str, **details: Any) -> None:
        self.write_json("status.json", {"status": status, **details})

    def finish(self) -> None:
        """Say that the run is finished, with the digests of what it leaves."""
        kept = {name: sha256_of(self.path / name) for name in _KEPT if (self.path / name).exists()}
        self.set_status("finished", sha256=kept)

    def finished_summary(self) -> dict[str, Any] | None:
        """The record if the run is finished and every file is as it was left.

        Damage is told; the run then makes its record anew from its checkpoint.
        """
        left = self._state()
        if left.get("status") != "finished":
            return None
        digests = left.get("sha256", {})
        for name, digest in digests.items() if isinstance(digests, dict) else ():
            path = self.path / name
            if name not in _KEPT:
                continue
            if not is_plain(path) or sha256_of(path) != digest:
                state = "damaged" if path.exists() else "gone"
                logger.warning("%s is %s; making it anew from the checkpoint", path, state)
                return None
        try:
            summary = read_json(self.summary)
        except (OSError, DamagedFile):
            return None
        return summary if isinstance(summary, dict) else None


def fit_directory(config: DictConfig) -> RunDirectory:
    """Of the two-stage fit that a run shares with others."""
    place = fit_path(config)
    return RunDirectory(Path(config.output.root, "runs") / place, place.as_posix())


class MetricsLog:
    """JSON lines ``{"stage", "epoch", ...}``, one an epoch; appended, and restored when resuming."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory, self.path = directory, directory.path / "metrics.jsonl"

    def append(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        self.directory.lease.append(self.path, _line(stage, epoch, values))

    def restore(self, stage: str, epochs: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Make a stage's lines those of its checkpoint, whatever a killed process or a bad disk left.

        Lines of other stages stay, torn ones go.
        """
        kept = [
            json.dumps(record) + "\n" for record in self.lines() if record.get("stage") != stage
        ]
        own = [_line(stage, epoch, values) for epoch, values in epochs]
        if kept or own or self.path.exists():
            self.directory.write_text(self.path.name, "".join(kept + own))

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line of an epoch."""
        try:
            check_plain(self.path)
            text = self.path.read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            return []
        return [json.loads(line) for line in text.splitlines() if epoch_of(line) is not None]


def _line(stage: str, epoch: int, values: dict[str, float]) -> str:
    return json.dumps({"stage": stage, "epoch": epoch, **values}) + "\n"


def stored_config(file: Path, trust: Path | None, also: Collection[str] = ()) -> DictConfig:
    """What :func:`without_places` left in a run's config.yaml; where its data is is not kept.

    Args:
        file: of the run.
        trust: folder of code that it may name.
        also: targets that it may name besides those of this package.

    Raises:
        UserError: it is no configuration of a run, or names what it may not.
    """
    try:
        told = read_yaml(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if isinstance(told.get("data"), dict):
        told["data"] = {
            key: None if isinstance(value, str) and value.startswith("${oc.env:") else value
            for key, value in told["data"].items()
        }
    check_config(file, told, trust, also)
    for group in GROUPS:
        if is_own(told[group]["_target_"]):  # Nobody is to look for it.
            told[group].setdefault(CODE, "")
    return OmegaConf.create(told)


def secrets_of(config: DictConfig) -> list[str]:
    """Texts that are written nowhere: what the environment and an address tell of the data."""
    found = [
        str(config.data[key])
        for key, value in config.data._content.items()
        if isinstance(value._value(), str) and "${oc.env:" in value._value()
    ]
    try:
        parts = urlsplit(str(config.data.get("url") or ""))
    except ValueError:
        return [*found, str(config.data.url)]
    told = [parts.username, parts.password, parts.query]
    told += [value for _, value in parse_qsl(parts.query)]
    found += [form for one in told if one for form in (one, unquote(one))]
    return [one for one in dict.fromkeys(found) if one]


def without_places(config: DictConfig) -> DictConfig:
    """The configuration without paths of this machine and without secrets, as records keep it.

    What data takes from the environment stays the name of its variable, an address loses what names or
    lets in a user. Parts that are the user's own code have its digest beside them.
    """
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    for key, value in config.data._content.items():
        text = value._value()
        if isinstance(text, str) and "${oc.env:" in text:
            values["data"][key] = text
        elif key == "url" and values["data"][key]:
            values["data"][key] = without_secrets(values["data"][key])
    copy = OmegaConf.create(values)
    assert isinstance(copy, DictConfig)
    for key in ("output", "force", "retry_failed", "accept_source_change", "device", "logger"):
        copy.pop(key, None)
    for key in ("root", "directory"):
        copy.data.pop(key, None)
    if config.data.get("file") and values["data"]["file"] == config.data.file:
        copy.data.file = name_of_file(config.data.file)
    for group in GROUPS:
        code = code_of(config, group)
        if code is not None:  # The user's own: what it was when it ran.
            copy[group][CODE] = code
    return copy
