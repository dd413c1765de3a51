"""One process a directory: on one host by the kernel's lock, across hosts by signs of life."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from filelock import FileLock

from diffusion_dfl.suite.runs import lease
from diffusion_dfl.suite.runs.lease import Held, Lease, LeaseLost, in_use

_QUICK = {"beat": 0.05, "expiry": 0.4}


def elsewhere(folder: Path, age: float = 0.0, pid: int = 1) -> Path:
    """A holder on another host, whose last sign of life is ``age`` seconds old."""
    owner = folder / ".owner"
    owner.write_text(json.dumps({"host": "another", "pid": pid, "token": "theirs"}))
    os.utime(owner, (time.time() - age,) * 2)
    return owner


def test_a_held_directory_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    with Lease(tmp_path), pytest.raises(Held, match="in use by another process; wait"):
        Lease(tmp_path).__enter__()
    with Lease(tmp_path) as again:
        assert again.held()
    assert not (tmp_path / ".owner").exists()


_HOLDER = """
import sys, time
from pathlib import Path
from diffusion_dfl.suite.runs.lease import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_is_seen_at_once_and_its_directory_taken(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        assert in_use(tmp_path)
        with pytest.raises(Held):
            Lease(tmp_path).__enter__()
        holder.kill()
    assert (tmp_path / ".owner").exists()
    assert not in_use(tmp_path)
    with Lease(tmp_path):
        assert in_use(tmp_path)


def test_a_living_holder_of_another_host_is_respected_where_locks_do_not_reach(
    tmp_path: Path,
) -> None:
    elsewhere(tmp_path)
    assert in_use(tmp_path)
    with pytest.raises(Held, match="on another host"):
        Lease(tmp_path).__enter__()
    assert json.loads((tmp_path / ".owner").read_text())["token"] == "theirs"


def test_a_silent_holder_of_another_host_is_taken_over(tmp_path: Path) -> None:
    elsewhere(tmp_path, age=1.0)
    with Lease(tmp_path, **_QUICK) as taken:
        assert taken.held()
    elsewhere(tmp_path, age=100.0)
    assert not in_use(tmp_path)


def test_one_that_waits_gets_its_turn_when_the_other_falls_silent(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    start = time.monotonic()
    with Lease(tmp_path, wait=True, **_QUICK) as taken:
        assert taken.held()
    assert time.monotonic() - start > 0.3


def test_signs_of_life_keep_a_long_holder(tmp_path: Path) -> None:
    with Lease(tmp_path, host="far", **_QUICK):
        time.sleep(0.6)  # longer than the expiry
        age = time.time() - (tmp_path / ".owner").stat().st_mtime
        assert age < 0.4


@pytest.mark.parametrize("alive", [True, False])
def test_a_clock_that_went_backwards_decides_nothing(
    alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign of life from the future: watched, not computed with."""
    owner = elsewhere(tmp_path, age=-3600.0)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if alive:
            os.utime(owner, (time.time() + 3600.0 + len(slept),) * 2)

    monkeypatch.setattr(lease.time, "sleep", sleep)
    holder = Lease(tmp_path, **_QUICK)
    if alive:
        with pytest.raises(Held):
            holder.__enter__()
    else:
        with holder:
            assert holder.held()
    assert slept == [1.5 * _QUICK["beat"]]


def test_a_holder_that_was_taken_over_notices_before_it_writes(tmp_path: Path) -> None:
    with Lease(tmp_path) as suspended:
        elsewhere(tmp_path)
        with pytest.raises(LeaseLost, match="taken over"):
            suspended.check()
    # And does not remove what is not its own.
    assert json.loads((tmp_path / ".owner").read_text())["token"] == "theirs"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": 3}', "\x00\xff"])
def test_a_damaged_owner_file_does_not_lock_for_ever(tmp_path: Path, text: str) -> None:
    (tmp_path / ".owner").write_text(text, encoding="latin-1")
    assert not in_use(tmp_path) or text == '{"host": 3}'
    os.utime(tmp_path / ".owner", (time.time() - 100,) * 2)
    with Lease(tmp_path) as taken:
        assert taken.held()


def test_without_kernel_locks_the_owner_file_alone_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: FileLock, **options: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", missing)
    with Lease(tmp_path), pytest.raises(Held):
        Lease(tmp_path).__enter__()
    # One of this host whose process is gone.
    text = json.dumps({"host": lease._host(), "pid": 2**22 + 1, "token": "dead"})
    (tmp_path / ".owner").write_text(text)
    with Lease(tmp_path) as taken:
        assert taken.held()


def test_two_who_find_a_dead_holder_do_not_both_take_its_place(tmp_path: Path) -> None:
    elsewhere(tmp_path, age=100.0)
    slow, fast = Lease(tmp_path, host="slow"), Lease(tmp_path, host="fast")
    judged = json.loads((tmp_path / ".owner").read_text())
    assert fast._take_over(judged, json.dumps({"host": "fast", "pid": 1, "token": fast.token}))
    # The slower one judged the same file, and meets the living one in its place.
    assert not slow._take_over(judged, json.dumps({"host": "slow", "pid": 1, "token": slow.token}))
    assert fast.held() and not slow.held()
    assert [item.name for item in tmp_path.iterdir()] == [".owner"]


def test_the_owner_file_names_no_machine(tmp_path: Path) -> None:
    with Lease(tmp_path):
        assert os.uname().nodename not in (tmp_path / ".owner").read_text()


def test_a_holder_that_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    file, log = tmp_path / "status.json", tmp_path / "metrics.jsonl"
    with Lease(tmp_path) as suspended:
        with suspended.replacing(file) as partial:
            partial.write_text("mine")
        suspended.append(log, "mine\n")
        elsewhere(tmp_path)
        with pytest.raises(LeaseLost), suspended.replacing(file) as partial:
            partial.write_text("late")
        with pytest.raises(LeaseLost):
            suspended.append(log, "late\n")
    assert file.read_text() == "mine"
    assert log.read_text() == "mine\n"


def _write(
    replacing: AbstractContextManager[Path], text: str, then: Callable[[], None] | None
) -> None:
    with replacing as partial:
        partial.write_text(text)
        if then is not None:
            then()


@pytest.mark.parametrize("moment", ["checked", "prepared"])
def test_what_was_begun_before_a_take_over_is_not_put_in_place_after_it(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Suspended between a check and the write: the check is made to see nothing, the fence holds.
    file, log = tmp_path / "status.json", tmp_path / "metrics.jsonl"
    suspended = Lease(tmp_path, **_QUICK, host="here").__enter__()
    suspended.append(log, "1\n")
    said, stranger = tmp_path / "run.log", tmp_path / "linked.log"
    said.write_text("before\n")
    stranger.symlink_to(file)
    late_line = said.open("a")
    suspended._stop.set()
    assert suspended._thread is not None
    suspended._thread.join()
    suspended._unlock()  # A file system whose locks do not reach the other host.
    os.utime(tmp_path / ".owner", (time.time() - 100,) * 2)
    monkeypatch.setattr(suspended, "check", lambda: None)

    def taken_over() -> None:
        with Lease(tmp_path, **_QUICK, host="there") as other:
            with other.replacing(file) as partial:
                partial.write_text("theirs")
            with other.replacing(log) as partial:
                partial.write_text("1\n2\n")
            other.append(log, "3\n")

    if moment == "checked":
        taken_over()
    late = suspended.replacing(file)
    with pytest.raises(LeaseLost):
        _write(late, "late", taken_over if moment == "prepared" else None)
    suspended.append(log, "late\n")
    with late_line:
        late_line.write("late\n")
    assert said.read_text() == "before\n"
    assert stranger.is_symlink()
    assert file.read_text() == "theirs"
    assert log.read_text() == "1\n2\n3\n"
    monkeypatch.undo()
    suspended.__exit__(None, None, None)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".writing")] == []


def test_a_lock_that_everybody_gets_does_not_make_two_holders(tmp_path: Path) -> None:
    # Of another process of this host, that lives and is not ours: what a lock says is not enough.
    other = os.getppid()
    told = {"host": Lease(tmp_path).host, "pid": other, "token": "theirs"}
    (tmp_path / ".owner").write_text(json.dumps(told))
    with pytest.raises(Held):
        Lease(tmp_path).__enter__()
    # Another process that has the number of a dead one is not its holder.
    (tmp_path / ".owner").write_text(json.dumps({**told, "started": 1}))
    with Lease(tmp_path) as lease:
        assert lease.held()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_held_by_the_owner_file(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: FileLock, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", fails)
    with Lease(tmp_path) as lease:
        assert lease.held()
        with pytest.raises(Held):
            Lease(tmp_path, host="there").__enter__()
