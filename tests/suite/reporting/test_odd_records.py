"""Records that are not what a run wrote: left out and named, whatever is in them, and nothing ends."""

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.files import parse_json
from diffusion_dfl.suite.commands import report, status, table
from diffusion_dfl.suite.reporting.collect import collect
from tests.suite.reporting.records import summary, write

_ODD: tuple[Any, ...] = (
    None, True, -1, 10**40, 1e300, "", "x", "../../x", "a b", "<b>", [], [1], [[]], {}, {"a": "b"},
    {"hydra.searchpath": "x"},
)  # fmt: skip
_TEXTS = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep object": '{"a":' * 60 + "1" + "}" * 60,
    "nan": '{"schema": 1, "x": NaN}',
    "infinity": '{"schema": 1, "x": 1e999}',
    "5000 digits": '{"schema": 1, "x": 1' + "0" * 5000 + "}",
    "mark": "\ufeff{}",
    "empty": "",
    "null": "null",
    "list": "[]",
    "cut off": '{"schema": 1, "identity": {',
    "twice": "{}{}",
}


def _paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))


def _with(record: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    odd = copy.deepcopy(record)
    node = odd
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return odd


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good run, and one for every oddity, each in a place of its own."""
    root = tmp_path_factory.mktemp("odd")
    cell = "laptop/power/gaussian-score"
    baselines = {"baselines": {"climatology": 4.0}, "num_rows": 2}
    write(root / "runs", f"{cell}/seed-0", summary("gaussian", "score", 0, 3.0, baselines))
    number = 0
    for path in _paths(summary("gaussian", "score", 0, 3.0, baselines)):
        for value in _ODD:
            number += 1
            record = summary("gaussian", "score", number, 3.0, baselines)
            odd = json.dumps(_with(record, path, value))
            write(root / "runs", f"{cell}/seed-{number}", odd)
    for text in _TEXTS.values():
        number += 1
        write(root / "runs", f"{cell}/seed-{number}", text)
    return root


def test_the_good_run_counts_and_the_others_are_named_or_no_worse(results: Path) -> None:
    found = collect(results)
    whole = {record.identity["seed"]: record for record in found.records}
    assert whole[0].summary["test"]["task"] == 3.0
    folders = len(list((results / "runs/laptop/power/gaussian-score").iterdir()))
    assert len(found.records) + len(found.left_out) + len(found.tuning) == folders
    assert len(found.left_out) > 300
    for one in found.left_out:
        assert len(str(one)) < 400
        assert "\n" not in str(one)


@pytest.mark.parametrize("verb", [table, status, pytest.param(report, marks=pytest.mark.slow)])
def test_no_oddity_ends_a_table_a_status_or_a_report(
    verb: Any, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {
        table: ["--results", str(results), "--task", "power"],
        status: ["--started", "--results", str(results)],
        report: ["--results", str(results), "--output", str(tmp_path / "report.html")],
    }[verb]
    monkeypatch.setattr(sys, "argv", ["diffusion-dfl", *words])
    assert verb.main() in (0, None)


@pytest.mark.parametrize("name", _TEXTS)
def test_json_of_a_stranger_is_refused_in_words(name: str) -> None:
    if name in ("null", "list"):
        parse_json(_TEXTS[name])  # JSON, if no record.
        return
    with pytest.raises(ValueError, match=r"\w+") as raised:
        parse_json(_TEXTS[name])
    assert len(str(raised.value)) < 200
