"""Checkpoints: tensors on disk that name their own damage, in two generations.

A file ends with the SHA-256 of what is before it, kept in the comment that a zip archive may have, so
that ``torch.load`` reads the file as any other. Nothing is unpickled before the digest fits, and then
with ``weights_only``.
"""

import hashlib
import io
import logging
import math
import os
import shutil
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import DamagedFile, check_plain, replacing

logger = logging.getLogger(__name__)

#: A path -> a temporary one that takes its place at the end of the block.
Replacing = Callable[[Path], AbstractContextManager[Path]]

# Of a stage's time, what its checkpoints may take.
_SHARE = 0.05

_MARK = b"sha256:"
_SEAL_BYTES = len(_MARK) + 64
# The end record of a zip archive: its signature, and where the length of the comment stands.
_END = b"PK\x05\x06"
_END_BYTES = 22


def write_tensors(path: Path, value: dict[str, Any], replacing: Replacing = replacing) -> None:
    """Tensors, numbers and containers of them, sealed with a digest."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    content = bytearray(buffer.getbuffer())
    assert content[-_END_BYTES : -_END_BYTES + 4] == _END
    struct.pack_into("<H", content, len(content) - 2, _SEAL_BYTES)
    seal = _MARK + hashlib.sha256(content).hexdigest().encode()
    with replacing(path) as partial:
        partial.write_bytes(content + seal)


def read_tensors(path: Path, device: torch.device) -> dict[str, Any]:
    """What :func:`write_tensors` wrote; executes nothing.

    Raises:
        DamagedFile: the digest does not fit, or there is none.
        FileNotFoundError: no such file.
    """
    try:
        check_plain(path)
    except ValueError as error:
        raise DamagedFile(f"{path}: {error}") from None
    content = path.read_bytes()
    body, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    if not seal.startswith(_MARK):
        raise DamagedFile(
            f"{path} is damaged: it has no checksum ({len(content)} bytes), so it was cut off or is "
            "not of this version"
        )
    if seal[len(_MARK) :] != hashlib.sha256(body).hexdigest().encode():
        raise DamagedFile(f"{path} is damaged: its checksum does not fit")
    try:
        value = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:
        raise DamagedFile(f"{path} holds more than tensors ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} holds no checkpoint but a {type(value).__name__}")
    return value


class Version(NamedTuple):
    """Of a source: a digest of all of it, and of what decides numbers."""

    source: str
    numbers: str


class Checkpoint:
    """A stage's state on disk, the last and the one before it.

    Args:
        path: file of the last; the one before is ``<stem>.previous<suffix>``.
        owner: what the state belongs to; a file of another owner is refused.
        replacing: how files are written.
        version: of the source that goes on with the state; None where nothing is told of it.
        accept_other: whether it goes on with what another one computed otherwise.

    Attributes:
        versions: those that the state was made by, in their order.
    """

    def __init__(
        self,
        path: Path,
        owner: str = "",
        replacing: Replacing = replacing,
        version: Version | None = None,
        accept_other: bool = False,
    ) -> None:
        self.path, self.owner = path, owner
        self._replacing = replacing
        self.version, self.accept_other = version, accept_other
        self.versions: list[Version] = []
        self._next = -math.inf
        self.previous = path.with_name(f"{path.stem}.previous{path.suffix}")

    def exists(self) -> bool:
        return self.path.exists() or self.previous.exists()

    @property
    def due(self) -> bool:
        """Whether a generation is worth its time: a small network would spend more on one an epoch than
        on its steps."""
        return time.monotonic() >= self._next

    def save(self, value: dict[str, Any]) -> None:
        """Write a new generation; the current one becomes the previous one."""
        began = time.monotonic()
        if self.path.exists():
            with self._replacing(self.previous) as partial:
                try:
                    os.link(self.path, partial)
                except OSError:  # A file system without hard links.
                    shutil.copyfile(self.path, partial)
        if self.version is not None and self.version not in self.versions:
            self.versions.append(self.version)
        told = {"owner": self.owner, "versions": [list(one) for one in self.versions]}
        write_tensors(self.path, told | value, self._replacing)
        ended = time.monotonic()
        self._next = ended + (ended - began) / _SHARE

    def load(self, device: torch.device) -> dict[str, Any]:
        """The last generation, or the one before where the last is damaged, which is told.

        Raises:
            UserError: neither can be read, or they belong to something else.
        """
        damage: list[str] = []
        for path in (self.path, self.previous):
            try:
                value = read_tensors(path, device)
            except FileNotFoundError:
                continue
            except DamagedFile as error:
                damage.append(str(error))
                continue
            if value.get("owner") != self.owner:
                raise UserError(
                    f"{path} is the checkpoint of {value.get('owner') or 'something else'}, not of "
                    f"{self.owner}; move it away and repeat the command"
                )
            self.check_versions(path, value.pop("versions", []))
            if damage:
                aside = self.path.with_name(self.path.name + ".damaged")
                os.replace(self.path, aside)
                logger.warning("%s; kept as %s, going on from %s", damage[0], aside.name, path.name)
            return value
        raise UserError(
            "; ".join(damage or [f"{self.path} is not there"])
            + "; move what is damaged away and repeat the command, which then trains this stage "
            "again, or add force=true, which keeps the whole run aside"
        )

    def check_versions(self, path: Path, told: list[list[str]]) -> None:
        """Take over the versions of a state; those that compute otherwise are not gone on from in silence."""
        self.versions = [Version(*one) for one in told]
        if self.version is None or not told or self.versions[-1] == self.version:
            return
        last, change = self.versions[-1], f"{self.versions[-1].source}, now {self.version.source}"
        if last.numbers == self.version.numbers:
            logger.info("%s was made by another source that computes the same (%s)", path, change)
        elif self.accept_other:
            logger.warning(
                "%s was made by another source (%s); its record will name both", path, change
            )
        else:
            raise UserError(
                f"{path} was made by another version of the source ({change}), and what decides numbers "
                "has changed: going on would mix them. Put that version back; or add force=true, which "
                "keeps what it made aside and begins anew; or accept_source_change=true, which goes on "
                "and says so in the record"
            )
