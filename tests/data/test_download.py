"""fetch: the pinned bytes or one clear error, against a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from diffusion_dfl.data import DataError, fetch
from diffusion_dfl.data import download as module

NAME = "file.txt"
GOOD = b"1.2e9 1.5 30.0\n" * 10_000
GOOD_SHA = hashlib.sha256(GOOD).hexdigest()
BAD = b"<html>not the file</html>"
BAD_SHA = hashlib.sha256(BAD).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        type(self).requests.append(self.path)
        if self.path == "/good":
            self.answer(GOOD, len(GOOD))
        elif self.path == "/bad":
            self.answer(BAD, len(BAD))
        elif self.path == "/short":
            self.answer(GOOD[:1000], len(GOOD))
        else:
            self.send_error(404, "Not Found")

    def answer(self, body: bytes, announced: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output clean."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(
            target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _forget_requests() -> None:
    Handler.requests.clear()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_puts_the_right_bytes_in_a_new_folder(server: str, tmp_path: Path) -> None:
    path = fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path / "a" / "data")
    assert path.read_bytes() == GOOD
    assert names(path.parent) == [NAME]


def test_second_fetch_does_not_ask_the_server(server: str, tmp_path: Path) -> None:
    fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path)
    fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path)
    assert Handler.requests == ["/good"]


def test_two_fetches_at_once_leave_one_right_file(server: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(fetch, NAME, f"{server}/good", GOOD_SHA, tmp_path) for _ in range(4)]
        paths = {job.result() for job in jobs}
    assert paths == {tmp_path / NAME}
    assert (tmp_path / NAME).read_bytes() == GOOD
    assert names(tmp_path) == [NAME]


def test_wrong_download_is_set_aside_and_named(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(NAME, f"{server}/bad", GOOD_SHA, tmp_path)
    aside = f"{NAME}.corrupt-{BAD_SHA[:8]}"
    assert names(tmp_path) == [aside]
    assert (tmp_path / aside).read_bytes() == BAD
    for part in ("data.url", f"{server}/bad", GOOD_SHA, BAD_SHA, aside, "data.root=FOLDER"):
        assert part in str(caught.value)


def test_damaged_own_file_is_set_aside_then_downloaded_anew(server: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(BAD)
    aside = f"{NAME}.corrupt-{BAD_SHA[:8]}"
    with pytest.raises(DataError) as caught:
        fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path)
    assert names(tmp_path) == [aside]
    for part in (GOOD_SHA, BAD_SHA, aside, "diffusion-dfl fetch"):
        assert part in str(caught.value)
    assert Handler.requests == []
    assert fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path).read_bytes() == GOOD


def test_right_file_put_in_place_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / NAME
    own.write_bytes(BAD)
    real_replace = os.replace

    def other_process_first(source: Path, target: Path) -> None:
        if Path(source) == own:
            own.write_bytes(GOOD)
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", other_process_first)
    assert fetch(NAME, "http://unused", GOOD_SHA, tmp_path) == own
    assert own.read_bytes() == GOOD
    assert names(tmp_path) == [NAME]


def test_missing_page_names_url_and_status(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(NAME, f"{server}/gone", GOOD_SHA, tmp_path)
    for part in (f"data.url={server}/gone", "404", "diffusion-dfl fetch", "data=simulated"):
        assert part in str(caught.value)
    assert names(tmp_path) == []


def test_refused_connection_names_url_and_mend(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/good"
    with pytest.raises(DataError) as caught:
        fetch(NAME, url, GOOD_SHA, tmp_path)
    for part in (f"data.url={url}", "refused", "data.root=FOLDER", "data=simulated"):
        assert part in str(caught.value)
    assert names(tmp_path) == []


def test_broken_connection_is_not_taken_for_a_wrong_file(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"broke after 1000 of {len(GOOD)} bytes"):
        fetch(NAME, f"{server}/short", GOOD_SHA, tmp_path)
    assert names(tmp_path) == []


def test_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.url=nonsense"):
        fetch(NAME, "nonsense", GOOD_SHA, tmp_path)


def test_folder_that_cannot_be_written_is_named(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"data.directory=.*cannot be written"):
        fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path / "file" / "data")


def test_root_goes_before_variable_and_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("root", "variable", "directory"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / NAME).write_bytes(GOOD)
    monkeypatch.setenv(module.ENVIRONMENT_VARIABLE, str(tmp_path / "variable"))
    found = fetch(NAME, "http://unused", GOOD_SHA, tmp_path / "directory", root=tmp_path / "root")
    assert found.parent.name == "root"
    found = fetch(NAME, "http://unused", GOOD_SHA, tmp_path / "directory")
    assert found.parent.name == "variable"
    monkeypatch.setenv(module.ENVIRONMENT_VARIABLE, "")
    found = fetch(NAME, "http://unused", GOOD_SHA, tmp_path / "directory", root="")
    assert found.parent.name == "directory"


@pytest.mark.parametrize("by_variable", [False, True])
def test_wrong_file_of_the_user_is_refused_and_left_alone(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / NAME).write_bytes(BAD)
    if by_variable:
        monkeypatch.setenv(module.ENVIRONMENT_VARIABLE, str(root))
    with pytest.raises(DataError) as caught:
        fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path, None if by_variable else root)
    assert names(root) == [NAME]
    assert (root / NAME).read_bytes() == BAD
    assert Handler.requests == []
    key = module.ENVIRONMENT_VARIABLE if by_variable else "data.root"
    for part in (f"{key}={root}", GOOD_SHA, BAD_SHA, "data=simulated"):
        assert part in str(caught.value)


def test_missing_root_and_missing_file_are_told_apart(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root=.*there is no such folder"):
        fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path, root=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"data.root=.*the folder has no file {NAME}"):
        fetch(NAME, f"{server}/good", GOOD_SHA, tmp_path, root=tmp_path / "empty")
    assert Handler.requests == []


@pytest.mark.parametrize("key", ["data.root", "data.directory"])
def test_unreadable_file_is_an_error_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    (tmp_path / NAME).write_bytes(GOOD)

    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / NAME))

    # chmod cannot show this to a test that runs as the superuser
    monkeypatch.setattr(module, "open", refuse, raising=False)
    root = tmp_path if key == "data.root" else None
    with pytest.raises(DataError, match=rf"{key}=.*cannot be read \(Permission denied\)"):
        fetch(NAME, "http://unused", GOOD_SHA, tmp_path, root=root)
    assert names(tmp_path) == [NAME]
