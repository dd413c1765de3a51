"""A directory held by one process at a time, on one host and across hosts that share a disk.

On one host an advisory file lock says who holds it; the kernel frees it when its process dies. Across
hosts such locks may not hold (NFS without a lock service), so the holder also keeps a file ``.owner``
that it made exclusively and touches every few seconds: one of another host that was not touched for a
minute is of a dead process. Ages are differences of times that the file server gave, so clocks of hosts
need not agree; where the server's own clock went backwards, the file is watched instead.

A holder that was suspended and taken over may wake at any moment, also between a check and a write, so
writes are fenced, not only checked. Files are prepared in a folder of the holder's own, which who takes
over removes first: what was prepared there can no longer be put in place. Lines are appended to files
that were opened before; who takes over puts new files in their place (logs a copy, here), so that late
lines reach none.
"""

import errno
import hashlib
import json
import os
import platform
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from filelock import FileLock, Timeout

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import is_plain, read_object, replacing, write_text

#: Seconds between signs of life, and without one until a holder of another host counts as dead.
BEAT = 10.0
EXPIRY = 60.0

_POLL = 0.2
# Looks at an owner file that is not there, and seconds between them.
_LOOKS, _LOOK = 5, 0.02
# Of a file system that has no locks, NFS without its lock service among them.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_DESK = ".writing-"


class Held(UserError):
    """Another process holds the directory."""


class LeaseLost(UserError):
    """The directory was taken over while this process thought it held it."""


def _host() -> str:
    """What tells hosts apart, without naming them."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return hashlib.sha256(f"{platform.node()} {boot}".encode()).hexdigest()[:12]
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


class Lease:
    """Hold a directory while in the ``with`` block.

    Args:
        directory: exists.
        wait: for another process to end; False raises at once.
        beat, expiry: seconds.
        host: of this process; given in tests.

    Raises:
        Held: on entry, without ``wait``.
    """

    def __init__(
        self,
        directory: Path,
        wait: bool = False,
        beat: float = BEAT,
        expiry: float = EXPIRY,
        host: str | None = None,
    ) -> None:
        self.directory, self.wait, self.beat, self.expiry = directory, wait, beat, expiry
        self.host = host or _host()
        self.token = secrets.token_hex(8)
        self._owner = directory / ".owner"
        self._desk = directory / f"{_DESK}{self.token}"
        self._lines: dict[Path, TextIO] = {}
        self._lock: FileLock | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        locked = self._lock_here()
        try:
            self._own(locked)
            self._fence_off_others()
        except BaseException:
            self._unlock()
            raise
        self._stop.clear()
        self._thread = threading.Thread(target=self._signs_of_life, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for lines in self._lines.values():
            with suppress(OSError):
                lines.close()
        self._lines.clear()
        if self.held():
            shutil.rmtree(self._desk, ignore_errors=True)
            with suppress(OSError):
                self._owner.unlink()
        self._unlock()

    def held(self) -> bool:
        """Whether this process still is the one on file."""
        for _ in range(_LOOKS):
            token = read_object(self._owner).get("token")
            if token is not None:
                return token == self.token
            time.sleep(_LOOK)  # Another one that took it for a dead one's puts it back.
        return False

    def check(self) -> None:
        """Raise LeaseLost if another process took over, as after a long suspension."""
        if not self.held():
            raise self._lost()

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """A temporary path that takes the place of ``path``, below the directory, if the lease holds.

        Raises:
            LeaseLost: it does not; ``path`` is as it was.
        """
        self.check()
        try:
            with replacing(path, self._desk) as partial:
                yield partial
                self.check()
        except FileNotFoundError:
            if self._desk.exists():
                raise
            raise self._lost() from None
        finally:
            if path in self._lines:  # They are of the file that was there before.
                self._lines.pop(path).close()

    def append(self, path: Path, text: str) -> None:
        """Add whole lines to a file, if the lease holds.

        Raises:
            LeaseLost: it does not.
        """
        self.check()
        if path not in self._lines:
            self._lines[path] = path.open("a", encoding="utf-8")
            self.check()  # The file is that of before a take-over, if there was one since.
        self._lines[path].write(text)
        self._lines[path].flush()

    def _fence_off_others(self) -> None:
        """Take their desks and logs from former holders, whole and at once; make one's own desk."""
        others = list(self.directory.glob(f"{_DESK}*"))
        for other in others:
            aside = other.with_name(f".removed-{self.token}-{other.name.removeprefix(_DESK)}")
            with suppress(FileNotFoundError):
                os.rename(other, aside)
        for old in self.directory.glob(".removed-*"):
            shutil.rmtree(old, ignore_errors=True)
        self._desk.mkdir()
        for log in self.directory.glob("*.log") if others else ():
            if is_plain(log):
                with replacing(log, self._desk) as partial:
                    shutil.copyfile(log, partial)

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"{self.directory} was taken over by another process while this one gave no sign of "
            "life; it goes on there"
        )

    def _lock_here(self) -> bool:
        """Take this host's lock; False where the file system has none."""
        lock = FileLock(self.directory / ".lock")
        try:
            lock.acquire(timeout=-1 if self.wait else 0, poll_interval=_POLL)
        except Timeout:
            raise self._refusal() from None
        except NotImplementedError:
            return False
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
        self._lock = lock
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _own(self, locked: bool) -> None:
        mine = {"host": self.host, "pid": os.getpid(), "started": _started(os.getpid())}
        text = json.dumps({**mine, "token": self.token})
        while True:
            there = read_object(self._owner)
            # Of this host and dead; or of this process, which left it behind, as its lock is free. A
            # lock alone proves nothing: there are file systems that grant it to everybody.
            gone = there.get("host") == self.host and not _alive(there)
            if gone or (locked and mine.items() <= there.items()):
                if locked:
                    write_text(self._owner, text)
                    return
                if self._take_over(there, text):
                    return
                continue
            if not there and self._owner.exists() and locked:
                write_text(self._owner, text)  # Cut off or foreign; no one keeps such a file alive.
                return
            if not there or self._expired(there):
                if self._take_over(there, text):
                    return
                continue
            if not self.wait:
                raise self._refusal()
            time.sleep(max(_POLL, self.beat / 10))

    def _take_over(self, there: dict[str, object], text: str) -> bool:
        """Put this process's file in the place of none, or of exactly the one that expired."""
        if self._owner.exists():
            aside = self._owner.with_name(f".owner.{self.token}.partial")
            try:
                os.rename(self._owner, aside)
            except FileNotFoundError:
                return False
            if read_object(aside).get("token") != there.get("token"):
                # Another process was faster and lives: give it its file back.
                with suppress(FileExistsError):
                    os.link(aside, self._owner)
                aside.unlink(missing_ok=True)
                return False
            aside.unlink(missing_ok=True)
        mine = self._owner.with_name(f".owner.{self.token}.partial")
        mine.write_text(text, encoding="utf-8")
        try:
            # Exclusive, and whole from its first moment.
            os.link(mine, self._owner)
        except FileExistsError:
            return False
        except OSError:  # A file system without hard links.
            return self._create(text)
        finally:
            mine.unlink(missing_ok=True)
        return True

    def _create(self, text: str) -> bool:
        try:
            handle = os.open(self._owner, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        return True

    def _expired(self, there: dict[str, object]) -> bool:
        try:
            touched = self._owner.stat().st_mtime
            with tempfile.NamedTemporaryFile(
                dir=self.directory, prefix=".clock-", suffix=".partial"
            ) as clock:
                age = os.stat(clock.name).st_mtime - touched
        except FileNotFoundError:
            return True
        if age > -self.beat:
            return age > self.expiry
        # The server's clock went backwards. A living owner touches its file again.
        time.sleep(1.5 * self.beat)
        with suppress(FileNotFoundError):
            return self._owner.stat().st_mtime == touched and read_object(self._owner).get(
                "token"
            ) == there.get("token")
        return True

    def _refusal(self) -> Held:
        elsewhere = read_object(self._owner).get("host", self.host) != self.host
        where = " on another host" if elsewhere else ""
        return Held(
            f"{self.directory} is in use by another process{where}; wait for it, or stop it and run "
            "again"
        )

    def _signs_of_life(self) -> None:
        while not self._stop.wait(self.beat):
            if not self.held():
                return
            with suppress(OSError):
                os.utime(self._owner)


def in_use(directory: Path, expiry: float = EXPIRY) -> bool:
    """Whether a process works in a directory; looks only, takes no lock."""
    owner = directory / ".owner"
    there = read_object(owner)
    if not there:
        return False
    if there.get("host") == _host() and not _alive(there):
        return False
    try:
        return time.time() - owner.stat().st_mtime < expiry
    except OSError:
        return False


def _alive(owner: dict[str, object]) -> bool:
    """Whether the process of an owner file of this host lives, not another that has its number."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return owner.get("started") in (None, _started(pid))


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the boot; -1 for one that ended, None for not told."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        words = told.rpartition(")")[2].split()
        return -1 if words[0] in "ZX" else int(words[19])
    except (OSError, ValueError, IndexError):
        return None
