"""A CSV file of contexts: columns by name, rows by number."""

from pathlib import Path

import numpy as np
import pytest

from diffusion_dfl.data.contexts import ContextFile
from diffusion_dfl.data.dataset import DataError

FEATURES = ("load", "holiday", "temperature")


def _file(folder: Path, text: str) -> Path:
    path = folder / "contexts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    path = _file(tmp_path, "\ufeffholiday, temperature,load\n0,20.5,1.5\n\n1,-3,2\n")
    (batch,) = ContextFile(path, FEATURES).batches(10)
    assert batch.tolist() == [[1.5, 0.0, 20.5], [2.0, 1.0, -3.0]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,,3", "line 3: holiday is missing"),
        ("1,1_000,3", "line 3: holiday is '1_000'"),
        ("1,_1,3", "line 3: holiday is '_1'"),
        ("1,1e1_0,3", "line 3: holiday is '1e1_0'"),
        ("1,\uff12,3", "line 3: holiday is '\uff12'"),
        ("1,nan,3", "line 3: holiday is 'nan'"),
        ("1,inf,3", "line 3: holiday is 'inf'"),
        ("x,0,y", "line 3: load is 'x', temperature is 'y'"),
        ("1,0", "line 3: it has 2 values, the header 3 names"),
        ("1,0,3,4", "line 3: it has 4 values, the header 3 names"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_the_others_are_read(
    row: str, said: str, tmp_path: Path
) -> None:
    path = _file(tmp_path, f"load,holiday,temperature\n1,0,3\n{row}\n4,1,5\n")
    file = ContextFile(path, FEATURES)
    rows = np.concatenate(list(file.batches(2)))
    assert file.refusals == {2: said}
    assert np.isfinite(rows).all(axis=1).tolist() == [True, False, True]


def test_a_missing_column_is_named_with_the_nearest_there_is(tmp_path: Path) -> None:
    path = _file(tmp_path, "load,holliday,temperature\n1,0,3\n")
    with pytest.raises(DataError) as error:
        ContextFile(path, FEATURES, ignore_extra=True)
    said = str(error.value)
    assert "missing: holiday (is it holliday?); not expected: holliday" in said
    assert "Expected: load, holiday, temperature" in said


def test_further_columns_are_refused_unless_asked_for(tmp_path: Path) -> None:
    path = _file(tmp_path, "day,load,holiday,temperature\nmonday,1,0,3\n")
    with pytest.raises(DataError, match="not expected: day.*--ignore-extra"):
        ContextFile(path, FEATURES)
    file = ContextFile(path, FEATURES, ignore_extra=True)
    assert file.extra == ["day"]
    assert next(file.batches(9)).tolist() == [[1.0, 0.0, 3.0]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found 0 columns; missing: load"),
        ("load,load,holiday,temperature\n", "several times: load"),
    ],
)
def test_other_headers_are_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        ContextFile(_file(tmp_path, text), FEATURES)


def test_what_is_no_file_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        ContextFile(tmp_path / "none.csv", FEATURES)
    path = tmp_path / "contexts.csv"
    path.write_bytes(b"\xff\xfe\x00l")
    with pytest.raises(DataError, match="no CSV in UTF-8"):
        ContextFile(path, FEATURES)


def test_memory_of_refusals_has_a_bound(tmp_path: Path) -> None:
    path = _file(tmp_path, "load,holiday,temperature\n" + "1,,3\n" * 1500)
    file = ContextFile(path, FEATURES)
    assert sum(len(batch) for batch in file.batches(100)) == 1500
    assert (len(file.refusals), file.num_refused) == (1000, 1500)
