"""A run that several versions of the source made says so, or is refused."""

import json
import logging
from pathlib import Path

import pytest
from omegaconf import DictConfig

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import fit_path, identify
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.runs import directory, environment, execution
from diffusion_dfl.suite.runs.run import run
from diffusion_dfl.training.checkpoint import Version
from tests.configs import composed
from tests.suite.runs.test_deployed import SMALL

FIRST, SAME, OTHER = Version("aa", "1"), Version("bb", "1"), Version("cc", "2")


class Source:
    """Stands for the source on disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.version = FIRST
        for module in (directory, execution):
            monkeypatch.setattr(module, "source_version", lambda: self.version)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    return Source(monkeypatch)


def _config(root: Path, *words: str) -> DictConfig:
    return composed([*SMALL, "model=gaussian", "grad=score", f"output.root={root}", *words])


def _bytes(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir() if one.is_file()}


def _interrupted(root: Path) -> Path:
    """A run that was killed before it told its end."""
    config = _config(root)
    run(config)
    path = root / "runs" / identify(config).path
    (path / "summary.json").unlink()
    (path / "status.json").write_text('{"status": "interrupted"}')
    return path


def test_a_run_of_one_version_names_it(source: Source, tmp_path: Path) -> None:
    assert run(_config(tmp_path))["sources"] == [["aa", "1"]]
    assert not frame(collect(tmp_path))["mixed"].any()


def test_a_source_that_computes_the_same_goes_on_and_is_told(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _interrupted(tmp_path)
    source.version = SAME
    with caplog.at_level(logging.INFO):
        assert run(_config(tmp_path))["sources"] == [["aa", "1"], ["bb", "1"]]
    assert "another source that computes the same (aa, now bb)" in caplog.text
    assert not frame(collect(tmp_path))["mixed"].any()


def test_a_source_that_computes_otherwise_is_refused(source: Source, tmp_path: Path) -> None:
    path = _interrupted(tmp_path)
    before = _bytes(path)
    source.version = OTHER
    with pytest.raises(UserError, match=r"\(aa, now cc\).*force=true.*accept_source_change=true"):
        run(_config(tmp_path))
    assert _bytes(path) == before


def test_what_is_accepted_stands_in_the_record_and_in_tables(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _interrupted(tmp_path)
    source.version = OTHER
    summary = run(_config(tmp_path, "accept_source_change=true"))
    assert summary["sources"] == [["aa", "1"], ["cc", "2"]]
    assert "its record will name both" in caplog.text
    assert frame(collect(tmp_path))["mixed"].tolist() == [True]


def test_force_begins_anew_with_the_shared_fit_too(source: Source, tmp_path: Path) -> None:
    _interrupted(tmp_path)
    source.version = OTHER
    assert run(_config(tmp_path, "force=true"))["sources"] == [["cc", "2"]]
    shared = tmp_path / "runs" / fit_path(_config(tmp_path))
    assert shared.with_name(f"{shared.name}.old-1").is_dir()


def test_another_row_does_not_take_the_fit_of_another_version(
    source: Source, tmp_path: Path
) -> None:
    run(_config(tmp_path))
    source.version = OTHER
    with pytest.raises(UserError, match=r"_fits.*made by another version"):
        run(_config(tmp_path, "grad=reparam"))


def test_what_decides_numbers_is_the_library_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "diffusion_dfl"
    (package / "suite").mkdir(parents=True)
    monkeypatch.setattr(environment, "PACKAGE", package)
    monkeypatch.setattr(environment.places, "cache", lambda: tmp_path / "cache")

    def version(text: str, suite: str = "") -> Version:
        (package / "loop.py").write_text(text)
        (package / "suite" / "page.py").write_text(suite)
        environment.source_hash.cache_clear()
        return environment.source_version.__wrapped__()

    try:
        first = version('def step():\n    """One step."""\n    return 1\n')
        words = version('def step():\n    """A step."""\n    return 1  # one\n')
        page = version('def step():\n    """One step."""\n    return 1\n', "x = 1\n")
        other = version('def step():\n    """One step."""\n    return 2\n')
        (remembered,) = (tmp_path / "cache").iterdir()
        for damage in ("", '["a"]', remembered.read_text()[:-5]):
            remembered.write_text(damage)
            assert environment.source_version.__wrapped__() == other
        monkeypatch.setattr(environment, "_library_hash", None)
        assert environment.source_version.__wrapped__() == other
    finally:
        environment.source_hash.cache_clear()
    assert first.numbers == words.numbers == page.numbers != other.numbers
    assert len({one.source for one in (first, words, page, other)}) == 4


def test_the_list_is_in_the_record_on_disk(source: Source, tmp_path: Path) -> None:
    config = _config(tmp_path)
    run(config)
    path = tmp_path / "runs" / identify(config).path / "summary.json"
    assert json.loads(path.read_text())["sources"] == [["aa", "1"]]
