"""A user's own CSV as tidy columns of text, and the numbers in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusion_dfl.data.dataset import DataError


def read_tidy(file: Path, needed: Sequence[str], form: str) -> pd.DataFrame:
    """The file's columns as text, indexed by their lines; an empty field is the empty text.

    Args:
        file: UTF-8; ``~`` is the home folder.
        needed: columns it must have.
        form: what it must be, for messages.

    Raises:
        DataError: no such file, one that cannot be read, lacks a column or has no row.
    """
    path = file.expanduser()
    if not path.is_file():
        raise DataError(f"data.file={file}: there is no such file; it must be {form}.")
    try:
        # Nothing but an empty field is missing: a ticker may be called NA.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"data.file={file}: it cannot be read ({error}); need {form}.") from error
    table.columns = table.columns.str.strip()
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        raise DataError(
            f"data.file={file}: there is no column {lacking[0]} (found "
            f"{', '.join(map(str, table.columns))}); it must be {form}."
        )
    if table.empty:
        raise DataError(f"data.file={file}: there is no row below the header; it must be {form}.")
    return table.set_axis(pd.RangeIndex(2, len(table) + 2), axis=0)


def numbers_of(file: Path, column: "pd.Series[Any]") -> "pd.Series[float]":
    """A column of :func:`read_tidy` as float64, NaN for an empty field.

    Raises:
        DataError: naming the first line that has something else.
    """
    values = pd.to_numeric(column, errors="coerce").astype(np.float64)
    unreadable = (values.isna() & (column.str.strip() != "")).to_numpy()
    if unreadable.any():
        row = int(np.argmax(unreadable))
        raise DataError(
            f"data.file={file}: line {column.index[row]} has {column.name} {column.iloc[row]!r}, "
            "which is not a number."
        )
    return values
