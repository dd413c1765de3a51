"""The part of the page that is drawn on demand, as JSON: runs, curves, charts."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diffusion_dfl.suite.reporting.page.curves import OWN, QUANTITIES, Curve
from diffusion_dfl.suite.reporting.page.gather import CellCurves, Report
from diffusion_dfl.suite.reporting.page.runs import STANDINGS, Run
from diffusion_dfl.suite.reporting.page.studies import Study
from diffusion_dfl.suite.reporting.paper import ROWS

#: Columns of a run in the list, in this order; assets/runs.js reads them by name.
COLUMNS = (
    "path", "title", "state", "standing", "detail", "task", "scale", "source", "seed", "value",
    "validation", "seconds", "config", "environment", "command", "columns", "values",
)  # fmt: skip

_DIGITS = 6


def payload(report: Report) -> dict[str, Any]:
    """What assets/*.js draw from.

    Texts that many runs share are kept once and named by their number.
    """
    texts = _Texts()
    rows = [_run(run, texts) for run in report.runs]
    return {
        "columns": COLUMNS,
        "runs": rows,
        "texts": texts.kept,
        "standings": STANDINGS,
        "quantities": QUANTITIES,
        "cells": sorted((_cell(cell, report) for cell in report.curves), key=_order),
        "charts": [chart for study in report.studies for chart in charts(study)],
    }


def dumps(value: Any) -> str:
    """JSON that is safe inside a ``<script>``; the same value gives the same text."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def charts(study: Study) -> list[dict[str, Any]]:
    """Its charts of lines, each with the id of its place in the page."""
    return [
        {"id": f"{study.name}-{number}", **_rounded(asdict(lines))}
        for number, lines in enumerate(study.lines)
    ]


class _Texts:
    """Texts, each once."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.kept)
            self.kept.append(text)
        return self._numbers[text]


def _run(run: Run, texts: _Texts) -> list[Any]:
    names = sorted(run.values)
    told = {
        "path": run.path,
        "title": texts.number(run.title),
        "state": run.state,
        "standing": run.standing,
        "detail": run.detail,
        "task": run.task,
        "scale": run.scale,
        "source": run.source,
        "seed": run.seed,
        "value": _number(run.values.get("test.task")),
        "validation": _number(run.values.get("validation.task")),
        "seconds": _number(run.values.get("timing.total")),
        "config": texts.number(run.config),
        "environment": texts.number(run.environment),
        "command": texts.number(run.command),
        # Names of values are the same for all runs of a cell.
        "columns": texts.number("\n".join(names)),
        "values": [_rounded(run.values[name]) for name in names],
    }
    return [told[name] for name in COLUMNS]


def _cell(cell: CellCurves, report: Report) -> dict[str, Any]:
    first = report.runs[cell.runs[0]]
    return {
        "table": "/".join((first.task, first.scale, first.source)),
        "title": first.title,
        "standing": first.standing,
        "trained": first.grad != "two_stage",
        "runs": cell.runs,
        "curves": [_curve(curve) for curve in cell.curves],
    }


def _order(cell: Mapping[str, Any]) -> tuple[int, str]:
    """The paper's order; what changes a row's setting stands behind it."""
    titles = [title for _, title, _, _ in ROWS]
    name = str(cell["title"]).partition(" (")[0]
    return titles.index(name) if name in titles else len(titles), str(cell["title"])


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "stage": curve.stage,
        "epochs": curve.epochs,
        "bands": {
            name: [_rounded(band.mean), _rounded(band.error), _counts(band.count)]
            for name, band in curve.bands.items()
        },
        OWN: _rounded(curve.own),
    }


def _counts(counts: Sequence[int]) -> int | Sequence[int]:
    """One number where all are the same."""
    return counts[0] if len(set(counts)) == 1 else counts


def _number(value: Any) -> float | None:
    return _rounded(value) if isinstance(value, int | float) else None


def _rounded(value: Any) -> Any:
    """Numbers to `_DIGITS` digits, those that are not finite as null."""
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value]
