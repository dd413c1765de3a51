"""A user's CSV file of new contexts, read in batches: a header with the features, a row a context."""

import csv
import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError

# Refusals that are kept in full; a file of another kind would fill the memory with them.
_MOST_TOLD = 1000
# Names that an error shows.
_MOST_NAMES = 8


class ContextFile:
    """Contexts in a CSV file; columns are found by name, in any order.

    Rows are numbered from 1 below the header; empty lines are no rows. A row that cannot be used is
    NaN and is named in ``refusals``, so that the others can be decided.

    Args:
        path: the file, UTF-8.
        features: names of the columns that are wanted, in the order of the contexts.
        ignore_extra: whether further columns are passed over; they are refused otherwise.

    Attributes:
        refusals: row number -> what is wrong with it, of the rows read so far.
        num_refused: how many there are.
        extra: further columns.

    Raises:
        DataError: no such file, or its columns are not the features.
    """

    def __init__(self, path: Path, features: Sequence[str], ignore_extra: bool = False) -> None:
        self.path, self.features = path, tuple(features)
        self.refusals: dict[int, str] = {}
        self.num_refused = 0
        try:
            with self._opened() as handle:
                header = [name.strip() for name in next(csv.reader(handle), [])]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else f"no CSV in UTF-8 ({error})"
            raise DataError(f"{path}: {reason}") from error
        self.extra = [name for name in header if name not in set(self.features)]
        self._check(header, ignore_extra)
        self._width = len(header)
        self._columns = [header.index(name) for name in self.features]

    def _opened(self) -> TextIO:
        # Excel writes a byte order mark.
        return self.path.open(newline="", encoding="utf-8-sig")

    def _check(self, header: Sequence[str], ignore_extra: bool) -> None:
        missing = [name for name in self.features if name not in header]
        twice = sorted({name for name in header if header.count(name) > 1})
        counts = (
            f"expected the {len(self.features)} features of the run, found {len(header)} columns"
        )
        if missing:
            told = [_with_nearest(name, self.extra) for name in missing[:_MOST_NAMES]]
            more = f"; not expected: {_few(self.extra)}" if self.extra else ""
            raise DataError(
                f"{self.path}: {counts}; missing: {', '.join(told)}{_rest(missing)}{more}. "
                f"Expected: {_few(self.features)}; --columns prints all"
            )
        if twice:
            raise DataError(f"{self.path}: {counts}; several times: {_few(twice)}")
        if self.extra and not ignore_extra:
            raise DataError(
                f"{self.path}: {counts}; not expected: {_few(self.extra)}. Take them out, or add "
                "--ignore-extra to pass them over"
            )

    def batches(self, size: int) -> Iterator[NDArray[np.float64]]:
        """Contexts ``(size, d_x)``, the last batch smaller, in the order of ``features``."""
        rows: list[list[float]] = []
        number = 0
        with self._opened() as handle:
            reader = csv.reader(handle)
            next(reader, None)
            for cells in reader:
                if not cells:
                    continue
                number += 1
                rows.append(self._row(cells, number, reader.line_num))
                if len(rows) == size:
                    yield np.array(rows)
                    rows = []
        if rows:
            yield np.array(rows)

    def _row(self, cells: Sequence[str], number: int, line: int) -> list[float]:
        if len(cells) != self._width:
            reason = f"it has {len(cells)} values, the header {self._width} names"
            self._refuse(number, f"line {line}: {reason}")
            return [math.nan] * len(self.features)
        values = []
        wrong = []
        for name, column in zip(self.features, self._columns, strict=True):
            value = _number(cells[column])
            if not math.isfinite(value):
                text = cells[column].strip()
                wrong.append(f"{name} is {repr(text) if text else 'missing'}")
            values.append(value)
        if wrong:
            self._refuse(number, f"line {line}: {_few(wrong)}")
        return values

    def _refuse(self, number: int, reason: str) -> None:
        self.num_refused += 1
        if len(self.refusals) < _MOST_TOLD:
            self.refusals[number] = reason


def _number(text: str) -> float:
    """NaN for what is no number; Python's float would take 1_000 and digits of other scripts."""
    if "_" in text or not text.isascii():
        return math.nan
    try:
        return float(text)
    except ValueError:
        return math.nan


def _with_nearest(name: str, others: Sequence[str]) -> str:
    near = get_close_matches(name, others, n=1)
    return f"{name} (is it {near[0]}?)" if near else name


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + _rest(names)


def _rest(names: Sequence[str]) -> str:
    return f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
