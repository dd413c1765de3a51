"""power_dataset and the download script: what a run of the power task starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusion_dfl.data import DataError, power_dataset
from diffusion_dfl.data.pjm import PJM_FILES
from diffusion_dfl.suite.commands import fetch


def test_simulated_set_has_its_last_fifth_for_test() -> None:
    data = power_dataset("simulated", np.random.default_rng(0))
    assert (data.name, data.source) == ("power", "simulated")
    assert data.contexts.shape == (1172, 30) and data.outcomes.shape == (1172, 24)
    full = power_dataset("simulated", np.random.default_rng(0), features="full")
    assert full.contexts.shape == (1172, 53)
    places = [full.feature_names.index(name) for name in data.feature_names]
    assert np.array_equal(full.contexts[:, places], data.contexts)
    assert data.test.tolist() == list(range(1172 - 234, 1172))
    assert len(data.validation) == 14 * 14
    assert data.dates[0] == np.datetime64("2010-01-29")


def test_context_begins_with_the_outcome_of_the_day_before() -> None:
    data = power_dataset("simulated", np.random.default_rng(0), num_days=300)
    assert data.feature_names[0] == "prev_h00"
    assert np.array_equal(data.contexts[1:, :24], data.outcomes[:-1])


def test_seed_moves_validation_only() -> None:
    one = power_dataset("simulated", np.random.default_rng(1), num_days=400)
    two = power_dataset("simulated", np.random.default_rng(2), num_days=400)
    assert np.array_equal(one.contexts, two.contexts) and np.array_equal(one.test, two.test)
    assert not np.array_equal(one.validation, two.validation)


def test_unknown_source_is_refused() -> None:
    with pytest.raises(DataError, match=r"data=reel is no source of loads.*real, simulated"):
        power_dataset("reel", np.random.default_rng(0))


def test_an_unknown_set_of_features_is_refused() -> None:
    with pytest.raises(DataError, match=r"task\.features=some: .*compact or full"):
        power_dataset("simulated", np.random.default_rng(0), features="some")


def test_too_few_simulated_days_name_their_key() -> None:
    with pytest.raises(DataError, match=r"data.num_days"):
        power_dataset("simulated", np.random.default_rng(0), num_days=20)


def test_real_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root="):
        power_dataset("real", np.random.default_rng(0), root=tmp_path)
    with pytest.raises(DataError, match=r"data.url=.*pjm_load_data_2008-11.txt"):
        power_dataset(
            "real", np.random.default_rng(0), url=tmp_path.as_uri(), directory=tmp_path / "data"
        )


def test_real_set(real_root: Path) -> None:
    data = power_dataset("real", np.random.default_rng(0), root=real_root)
    assert data.contexts.shape == (3165, 30) and data.outcomes.shape == (3165, 24)
    assert (str(data.dates[0]), str(data.dates[-1])) == ("2008-01-29", "2016-09-27")
    assert np.all(np.diff(data.dates) == np.timedelta64(1, "D"))
    assert len(data.test) == 638
    assert str(data.dates[data.test[0]]) == "2014-12-30"
    assert len(data.validation) == 37 * 14
    assert 1900 < len(data.train) < 2527 - 37 * 14


def test_script_reports_success(
    real_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = real_root.resolve().as_uri()
    assert fetch.main(["--directory", str(tmp_path), "--url", url]) == 0
    printed = capsys.readouterr().out
    for name, sha256 in PJM_FILES.items():
        assert (tmp_path / name).is_file()
        assert f"{name}: sha256 {sha256} ok" in printed


def test_script_fails_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = (tmp_path / "nowhere").as_uri()
    assert fetch.main(["--directory", str(tmp_path / "data"), "--url", url]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "data.url=" in error
