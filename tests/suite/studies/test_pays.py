"""The study of where decision-focused training pays: its units, its files, its numbers."""

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.claims import render
from diffusion_dfl.suite.studies import pays, pays_report

CPU = torch.device("cpu")
SMALL = pays.Setting("rows", 50, {"task.num_train": 50, "task.num_validation": 12})


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pays, "_FIT_STEPS", 4)
    monkeypatch.setattr(pays, "_TRAIN_STEPS", {"gaussian": 2, "diffusion": 2})
    monkeypatch.setattr(pays, "SETTINGS", (SMALL,))


def test_no_seed_that_is_kept_untouched_is_run() -> None:
    assert len(set(pays.SEEDS)) == 20
    assert not set(pays.SEEDS) & set(range(10, 15))


@pytest.mark.slow
def test_every_setting_moves_one_thing_and_composes() -> None:
    for name, axis in pays.AXES.items():
        assert axis.own not in axis.others
        for setting in axis.settings(name):
            assert bool(setting.changes) != bool(setting.noise)
            config = pays.config_of("gaussian", "reparam", 0, setting)
            held_out = min(config.task.num_train // 4, 400)
            assert config.task.num_validation == held_out
    costs = pays.AXES["asymmetry"].settings("asymmetry")[-1].changes
    assert costs["task.cb"] / costs["task.ch"] == pytest.approx(200.0)
    assert costs["task.cb"] + costs["task.ch"] == pytest.approx(40.0)


def test_stages_have_as_many_steps_whatever_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pays, "_FIT_STEPS", 3000)
    for setting in pays.AXES["rows"].settings("rows"):
        config = pays.config_of("gaussian", "two_stage", 0, setting)
        steps = config.fit.epochs * np.ceil(config.task.num_train / config.fit.batch_size)
        assert steps == pytest.approx(3000, rel=0.06)


def test_noise_is_on_what_models_see_and_not_on_what_makes_the_demand() -> None:
    config = pays.config_of("gaussian", "two_stage", 3, SMALL)
    clean, noisy = pays.task_of(config, 0.0), pays.task_of(config, 1.5)
    np.testing.assert_array_equal(clean.dataset.outcomes, noisy.dataset.outcomes)
    np.testing.assert_array_equal(clean.optimum, noisy.optimum)  # type: ignore[attr-defined]
    blur = noisy.dataset.contexts - clean.dataset.contexts
    assert blur.std() == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("model", ["gaussian", pytest.param("diffusion", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_unit_has_every_row_and_its_twin(model: str) -> None:
    lines = pays.measure(model, 0, SMALL, CPU)
    rows = [(line.grad, line.twin) for line in lines]
    assert rows == [
        ("saa", False),
        ("two_stage", False),
        ("reparam", False),
        ("reparam", True),
        ("score", False),
        ("score", True),
    ]
    assert all(line.regret >= 0 for line in lines)
    # Their difference is the cost of the best decision, the same for all.
    best = [line.cost - line.regret for line in lines]
    np.testing.assert_allclose(best, best[0], rtol=1e-9)
    for own, twin in ((2, 3), (4, 5)):
        assert lines[own].epochs == lines[twin].epochs
        if not lines[own].epochs:  # Nothing was gained on the rows held out: all are the fit.
            assert lines[own].regret == lines[twin].regret == lines[1].regret


def test_a_unit_is_the_same_in_any_process() -> None:
    """Dropout draws from the process's generator, which starts anywhere."""
    found = []
    for start in (1, 2):
        torch.manual_seed(start)
        state = torch.get_rng_state()
        found.append([line.regret for line in pays.measure("gaussian", 0, SMALL, CPU)])
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_stopped_and_refuses_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pays.run(tmp_path, ["gaussian"], [0], CPU)
    first = pays.path_of(tmp_path, "gaussian").read_text()
    heard: list[str] = []
    pays.run(tmp_path, ["gaussian"], [0, 1], CPU, heard.append)
    assert len(heard) == 1 and heard[0].startswith("gaussian seed 1 rows 50: regret saa")
    assert pays.path_of(tmp_path, "gaussian").read_text().startswith(first)
    monkeypatch.setattr(pays, "_FIT_STEPS", 8)
    with pytest.raises(UserError, match=r"rows 50 was made with another recipe .* move"):
        pays.run(tmp_path, ["gaussian"], [0], CPU)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1,2\n", "no study of where training pays"),
        (b"", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"a,b\n1,2,3,4\n1\n1,2,3,4,5\n", "is damaged|no study"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    pays.path_of(tmp_path, "gaussian").write_bytes(content)
    with pytest.raises(UserError, match=told):
        pays_report.everything(tmp_path)


@pytest.mark.slow
def test_a_file_that_was_cut_off_is_told_or_made_whole(tmp_path: Path) -> None:
    path = pays.path_of(tmp_path, "gaussian")
    pays.run(tmp_path, ["gaussian"], [0], CPU)
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:4]))
    pays.run(tmp_path, ["gaussian"], [0], CPU)
    numbers = [pd.read_csv(path)["regret"], pd.read_csv(io.StringIO(whole))["regret"]]
    pd.testing.assert_series_equal(*numbers)
    path.write_text(whole[:-25].rpartition(",")[0] + ",x\n")
    with pytest.raises(UserError, match="damaged"):
        pays.read(path)


def test_a_recipe_of_digits_and_a_regret_that_is_none_are_read_as_they_are(tmp_path: Path) -> None:
    lines = _lines(saved=0.4)
    lines["recipe"], lines.loc[0, "regret"] = "012345678901", np.nan
    path = pays.path_of(tmp_path, "gaussian")
    lines.to_csv(path, index=False)
    found = pays.read(path)
    assert set(found["recipe"]) == {"012345678901"}
    assert np.isnan(found["regret"][0]) and found["regret"][1:].notna().all()


def _lines(saved: float) -> pd.DataFrame:
    """Ten seeds of the task as it is, whose regrets are 2 for the fit, 1.5 less ``saved`` for reparam."""
    rows = []
    for seed in range(10):
        shift = 0.3 * seed  # of a seed, not of a row: differences do not see it
        for grad, twin, regret in (
            ("saa", False, 6.0),
            ("two_stage", False, 2.0),
            ("reparam", False, 1.5 - saved - 1e-3 * (seed % 2)),
            ("reparam", True, 1.5),
            ("score", False, 1.5),
            ("score", True, 1.5),
        ):
            line = pays.Line(
                "r", "", 0.0, "gaussian", seed, grad, twin, 50.0, regret + shift, 1.0, 3, 1.0
            )
            rows.append(asdict(line))
    return pd.DataFrame(rows)


def test_gains_are_over_the_twin_paired_and_bold_beyond_their_interval() -> None:
    lines = _lines(saved=0.4)
    found = pays_report.gain(lines, "gaussian", "reparam")
    whole = 2.0 + 0.3 * 4.5
    assert found.mean == pytest.approx(100 * 0.4005 / whole)
    text = pays_report.render(lines)
    line = next(line for line in text.splitlines() if line.startswith("| 1600 (as it is)"))
    assert "-0.400 [-0.401, -0.400]" in line  # less its twin
    assert "-0.900 [-0.901, -0.900]" in line  # less the fit
    assert "**12**" in line
    assert line.rstrip(" |").endswith("10")
    assert "**" not in pays_report.render(_lines(saved=-0.4))


def test_the_page_may_name_what_is_saved_on_twin_and_fit() -> None:
    lines = _lines(saved=0.4)
    found = pays_report.numbers(lines)
    whole = 2.0 + 0.3 * 4.5
    assert found["gaussian.rows.1600"] == found["gaussian.modes.3"] == pytest.approx(whole)
    assert found["gaussian.rows.1600.saa"] == pytest.approx(6.0 + 0.3 * 4.5)
    assert found["gaussian.rows.1600.reparam"] == pytest.approx(100 * 0.4005 / whole)
    assert found["gaussian.rows.1600.reparam.own"] == pytest.approx(100 * 0.9005 / whole)
    assert found["gaussian.rows.1600.score.low"] == found["gaussian.rows.1600.score.high"] == 0
    assert found["gaussian.seeds"] == 10 and found["diffusion.seeds"] == 0
    table = found["gaussian.table"].splitlines()
    assert (
        "| 1600 (as it is) | 7.35 | 3.35 | 2.45 | **12** [12, 12] | 2.85 | 0 [0, 0] |" in table[5]
    )
    assert "gaussian.rows.50" not in found and "| 50 | – | – | – | – |" in table[2]


@pytest.mark.slow
def test_the_committed_page_is_what_the_committed_files_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    root = Path(__file__).parents[3]
    lines = pays_report.everything(root / "results" / "studies")
    page = render("pays", pays_report.numbers(lines))
    assert page == (root / "docs" / "pays.md").read_text(encoding="utf-8")


def test_the_figure_has_a_panel_an_axis_and_a_curve_a_row() -> None:
    drawing = pays_report.figure(_lines(saved=0.4))
    assert [axis.get_title() for axis in drawing.axes[: len(pays.AXES)]] == [
        a.title for a in pays.AXES.values()
    ]
    labels = [text.get_text() for text in drawing.axes[0].get_legend().get_texts()]
    assert labels == ["Gaussian, reparam", "Gaussian, score"]
