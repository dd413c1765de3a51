"""The user's key: from the environment, into one header, and nowhere else."""

from __future__ import annotations

import email.message
import io
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from diffusion_dfl.data import DataError
from diffusion_dfl.data.prices import QuandlPrices, Window, price_panel
from diffusion_dfl.data.prices.quandl import KEY_VARIABLE

KEY = "a-key-that-is-none"
WINDOW = Window(np.datetime64("2004-01-01", "D"), np.datetime64("2004-12-31", "D"))
ANSWER = (
    "Date,Open,Adj. Close,Adj. Volume\n2004-01-05,1.0,20.5,2000.0\n2004-01-02,1.0,20.0,1000.0\n"
)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[urllib.request.Request]:
    """What was asked for; every answer is ANSWER."""
    asked: list[urllib.request.Request] = []

    def urlopen(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        asked.append(request)
        return io.BytesIO(ANSWER.encode())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    return asked


def test_no_key_is_an_error_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv(KEY_VARIABLE, raising=False)
        else:
            monkeypatch.setenv(KEY_VARIABLE, value)
        with pytest.raises(DataError, match=r"QUANDL_API_KEY is not set.*data=sp500"):
            QuandlPrices(WINDOW)


def test_an_answer_becomes_tidy_rows_and_is_kept_without_the_key(
    requests: list[urllib.request.Request], tmp_path: Path
) -> None:
    source = QuandlPrices(WINDOW, directory=tmp_path)
    panel = price_panel(source.frame(["BRK.B"]), WINDOW)
    assert panel.close[:, 0].tolist() == [20.0, 20.5]
    assert panel.volume is not None and panel.volume[:, 0].tolist() == [1000.0, 2000.0]
    (request,) = requests
    assert "/WIKI/BRK_B.csv?start_date=2004-01-01&end_date=2004-12-31" in request.full_url
    assert KEY not in request.full_url
    # Not among the headers that follow a redirection to another host.
    assert KEY not in request.headers.values()
    assert request.unredirected_hdrs["X-api-token"] == KEY
    source.frame(["BRK.B"])
    assert len(requests) == 1
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1 and KEY not in written[0].read_text() + written[0].name
    assert KEY not in repr(source)


@pytest.mark.parametrize(
    ("code", "mend"), [(404, r"task.exclude=\[XYZ\]"), (403, "check the key in QUANDL_API_KEY")]
)
def test_a_refusal_names_ticker_and_mend_and_never_the_key(
    requests: list[urllib.request.Request],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    code: int,
    mend: str,
) -> None:
    def refuse(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        headers = email.message.Message()
        raise urllib.error.HTTPError(request.full_url, code, "no", headers, io.BytesIO())

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match=rf"answered {code} for XYZ; .*{mend}") as caught:
        QuandlPrices(WINDOW, directory=tmp_path).frame(["XYZ"])
    assert KEY not in str(caught.value)


def test_no_connection_names_the_ticker(
    requests: list[urllib.request.Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(DataError, match=r"XYZ cannot be had \(URLError\)"):
        QuandlPrices(WINDOW, directory=tmp_path).frame(["XYZ"])


def test_an_answer_that_is_no_table_is_not_kept(
    requests: list[urllib.request.Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = io.BytesIO(b"<html>come back later</html>")
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: page)
    with pytest.raises(DataError, match=r"answer for XYZ is not a table"):
        QuandlPrices(WINDOW, directory=tmp_path).frame(["XYZ"])
    assert not list(tmp_path.rglob("*.csv"))


def test_the_key_is_sent_over_https_only(requests: list[urllib.request.Request]) -> None:
    with pytest.raises(DataError, match=r"data.url=http://.*https only"):
        QuandlPrices(WINDOW, url="http://example.org/")
