"""What is read of a run's directory, whole or not."""

from pathlib import Path

import pytest

from diffusion_dfl.suite.reporting.run_files import config, epochs, rows


def test_lines_that_are_no_epoch_are_counted(tmp_path: Path) -> None:
    lines = [
        '{"stage": "fit", "epoch": 1, "loss": 2, "note": "x"}',
        "null",
        '{"stage": "fit"}',
        "{",
    ]
    lines.append('{"stage": "fit", "epoch": "2"}')
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert epochs(tmp_path) == ([{"stage": "fit", "epoch": 1, "loss": 2.0}], 4)


def test_what_is_not_there_is_empty(tmp_path: Path) -> None:
    assert epochs(tmp_path) == ([], 0)
    assert rows(tmp_path).empty
    assert config(tmp_path) == {}


def test_rows_are_named_as_they_are_written_and_a_foreign_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("row,task\n07,1.5\nrow 2,-3\n")
    assert rows(tmp_path).to_dict() == {"07": 1.5, "row 2": -3.0}
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="row"):
        rows(tmp_path)


def test_small_numbers_of_a_configuration_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("fit:\n  learning_rate: 1.0e-05\n  solver: auto\n")
    assert config(tmp_path) == {"fit": {"learning_rate": 1e-05, "solver": "auto"}}
    (tmp_path / "config.yaml").write_text("fit: [")
    assert config(tmp_path) == {}
