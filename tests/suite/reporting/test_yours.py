"""`make figures`: the user's runs in a figure of their own, and no committed figure under another name."""

import runpy
import sys
from pathlib import Path

import pytest

from diffusion_dfl.suite.reporting.figures import YOURS, FigureSource, MissingRuns, draw_anew
from tests.commands import ROOT
from tests.suite.reporting.records import place, publish, summary, write


def results(root: Path, scale: str) -> FigureSource:
    """Committed runs of two methods, and one of the user's, at this scale."""
    kept = [summary("gaussian", "score", seed, 3.0 + seed) for seed in (0, 1)]
    publish(root, {place(one["identity"]): one for one in kept})
    mine = summary("gaussian", "two_stage", 0, 4.0, {"baselines": {"saa": 5.0}}, scale=scale)
    write(root / "runs", place(mine["identity"]), mine)
    return FigureSource(root)


def test_every_run_of_the_user_is_a_dot_beside_the_best_plain_baseline(tmp_path: Path) -> None:
    (axis,) = YOURS.make(results(tmp_path, "smoke")).axes
    assert axis.get_title() == "Power schedule: real data, scale smoke"
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        "Gaussian TS (older preset)"  # by a hash that no preset has
    ]
    low, high = axis.get_xlim()
    assert low < 4.0 < 5.0 < high
    with pytest.raises(MissingRuns, match=r"python train\.py"):
        YOURS.make(FigureSource(tmp_path, own=False))


def test_a_figure_without_a_run_of_the_user_is_not_written_again(tmp_path: Path) -> None:
    source = results(tmp_path, "smoke")
    committed, own = tmp_path / "figures", tmp_path / "figures" / "own"
    (made, _) = draw_anew(source, "overview", committed, own)
    assert made == committed / "overview.png"
    assert draw_anew(source, "overview", committed, own) == []
    assert not own.exists()


def test_a_figure_with_a_run_of_the_user_stands_beside_the_committed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusion_dfl.suite.reporting.collect.todays_role", _row)
    (made, _) = draw_anew(results(tmp_path, "laptop"), "overview", tmp_path, tmp_path / "own")
    assert made == tmp_path / "own" / "overview.png"


def _row(identity: object) -> object:
    from diffusion_dfl.suite.reporting.roles import RUN, Role

    return Role(RUN, "h")


def test_make_figures_says_which_show_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results(tmp_path, "smoke")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "overview.png").write_bytes(b"committed")
    script = ROOT / "scripts" / "make_figures.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--results", str(tmp_path), "overview"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    told = capsys.readouterr().out.splitlines()
    assert "yours.png" in told[0]
    assert told[1] == f"no run of yours is in overview: they stand in {tmp_path / 'figures'}"
    assert (tmp_path / "figures" / "overview.png").read_bytes() == b"committed"
