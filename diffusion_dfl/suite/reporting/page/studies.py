"""The gradient laboratory: charts of its numbers and the text of its reports."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import read_json
from diffusion_dfl.suite.reporting.page.document import Section, sections
from diffusion_dfl.suite.reporting.page.dots import Dot, Dots, chart


@dataclass(frozen=True)
class Line:
    """A line of a chart; ``low`` and ``high`` bound its band."""

    name: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Lines:
    """A chart of lines.

    Attributes:
        title: what it shows.
        x_title, y_title: of its axes.
        ticks: names of the values of x where these are ranks, not numbers.
        lines: its lines.
        note: what line and band are.
    """

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    note: str
    ticks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study of the laboratory.

    Attributes:
        name: of its files.
        title: of its report.
        lines, dots: its charts.
        text: its report.
        problem: why charts or text are not there; empty where they are.
    """

    name: str
    title: str
    lines: tuple[Lines, ...]
    dots: tuple[Dots, ...]
    text: tuple[Section, ...]
    problem: str


def studies(folder: Path) -> list[Study]:
    """Every study that has files in ``folder``, and every known one that has none, with the reason.

    Args:
        folder: results/gradient_lab.
    """
    return [_study(folder, name, charts) for name, charts in _CHARTS.items()]


def _study(folder: Path, name: str, charts: Callable[[Any], "_Charts"]) -> Study:
    lines: Sequence[Lines] = ()
    dots: Iterable[Dots | None] = ()
    problems = []
    command = f"python scripts/gradient_lab.py {name}"
    try:
        lines, dots = charts(read_json(folder / f"{name}.json"))
    except FileNotFoundError:
        problems.append(f"gradient_lab/{name}.json is not there; `{command}` makes it.")
    except UserError:
        problems.append(f"gradient_lab/{name}.json is damaged; `{command}` makes it anew.")
    except (LookupError, TypeError, ValueError) as error:
        problems.append(
            f"gradient_lab/{name}.json is not as `{command}` writes it "
            f"({type(error).__name__}: {error})."
        )
    try:
        text = sections((folder / f"{name}.md").read_text(encoding="utf-8"), 4)
    except (OSError, ValueError):
        text = []
        problems.append(f"gradient_lab/{name}.md cannot be read; `{command}` makes it.")
    title = text[0].title if text else name.capitalize()
    shown = tuple(one for one in dots if one is not None)
    return Study(name, title, tuple(lines), shown, tuple(text), " ".join(problems))


_Charts = tuple[Sequence[Lines], Iterable[Dots | None]]


def _linear(record: Mapping[str, Any]) -> _Charts:
    """Cosine against the model's error, in the largest dimension."""
    rows = [row for row in record["cosines"] if row["variance"] == "beta"]
    largest = max(row["d"] for row in rows)
    errors = sorted({row["error"] for row in rows})
    charts = []
    for length in sorted({row["T"] for row in rows}):
        lines = []
        for shape in ("stepwise", "uniform"):
            # Without an error both shapes are the same model, recorded under one of them.
            found = {
                row["error"]: row
                for row in rows
                if row["T"] == length and row["d"] == largest
                if row["shape"] == shape or row["error"] == 0
            }
            at = [index for index, error in enumerate(errors) if error in found]
            of_shape = [found[errors[index]] for index in at]
            for weights, title in (("vlb", "VLB"), ("simple", "simple")):
                name = f"{title} weights, {shape} error"
                lines.append(_line(name, at, of_shape, weights, f"{weights}_se"))
        charts.append(
            Lines(
                f"Cosine with the true gradient, T = {length}, d = {largest}",
                "error of the model",
                "cosine",
                tuple(lines),
                "Band: standard error over models.",
                tuple(f"{100 * error:g} %" for error in errors),
            )
        )
    return charts, ()


def _synthetic(record: Mapping[str, Any]) -> _Charts:
    """Cosine of one pair of estimates by dimension, and by epoch."""
    rows = record["dimensions"]
    sizes = sorted({row["d"] for row in rows})
    lines = []
    for estimator in ("score", "score_path"):
        for count in sorted({row["M"] for row in rows}):
            found = [r for r in rows if r["estimator"] == estimator and r["M"] == count]
            at = [sizes.index(row["d"]) for row in found]
            lines.append(_line(f"{estimator}, M = {count}", at, found, "one", "one_sd"))
    spread = "Mean over pairs of one draw each. Band: standard deviation over pairs."
    by_dimension = Lines(
        "Cosine with the reparameterised gradient, by dimension",
        "products d",
        "cosine",
        tuple(lines),
        spread,
        tuple(map(str, sizes)),
    )
    followed = record["epochs"]
    largest = max(row["M"] for row in followed)
    own = [row for row in followed if row["M"] == largest]
    lines = []
    for k in dict.fromkeys(row["k"] for row in own):
        found = [row for row in own if row["k"] == k]
        name = "score_path" if k is None else f"score, k = {k}"
        lines.append(_line(name, [row["epoch"] for row in found], found, "one", "one_sd"))
    dimension = record["settings"]["followed_dimension"]
    by_epoch = Lines(
        f"Cosine with the reparameterised gradient in training, d = {dimension}, M = {largest}",
        "epoch",
        "cosine",
        tuple(lines),
        spread,
    )
    return [by_dimension, by_epoch], ()


def _power(record: Mapping[str, Any]) -> _Charts:
    """Cosines with the true gradient, of the estimators and of the curvatures."""
    rows = [row for row in record["rows"] if row["axis"] in ("estimator", "curvature")]
    names = [
        row["estimator"] + ("" if row["axis"] == "estimator" else f", curvature {row['curvature']}")
        for row in rows
    ]
    one = [
        Dot(name, value, value - spread, value + spread, f"{value:.2f} ± {spread:.2f}")
        for name, value, spread in zip(
            names, _each(rows, "cosine_one"), _each(rows, "cosine_one_sd"), strict=True
        )
    ]
    mean = [
        Dot(name, value, float("nan"), float("nan"), f"{value:.2f}")
        for name, value in zip(names, _each(rows, "cosine_mean"), strict=True)
    ]
    return (), (
        chart(
            "One estimate",
            "Dot: mean cosine of one draw with the true gradient. Line: ± standard deviation.",
            "cosine",
            one,
        ),
        chart(
            "Mean of the draws", "Cosine of the mean of the draws, which noise spoils less.",
            "cosine", mean,
        ),
    )  # fmt: skip


def _variance(record: Mapping[str, Any]) -> _Charts:
    """Variance of every scheme in units of uniform timesteps."""
    charts = []
    for k in dict.fromkeys(row["k"] for row in record["rows"]):
        dots = [
            Dot(
                row["scheme"],
                row["variance"],
                row["variance"] - row["error"],
                row["variance"] + row["error"],
                f"{row['variance']:.3f} ± {row['error']:.3f}",
            )
            for row in record["rows"]
            if row["k"] == k
        ]
        note = "In units of uniform timesteps at the same k. Line: ± standard error (jackknife)."
        charts.append(chart(f"Variance of the gradient, k = {k}", note, "variance", dots))
    return (), charts


def _bias(record: Mapping[str, Any]) -> _Charts:
    """Expected direction and length of every estimator of the diffusion, noise left out."""
    rows = record["diffusion"]
    names = [
        ", ".join(
            [row["surrogate"]]
            + [f"{name} {row[name]:g}" for name in ("clip", "region") if row.get(name)]
        )
        for row in rows
    ]
    charts = []
    for key, title in (("cosine", "Direction"), ("along", "Length along the pathwise gradient")):
        values, errors = _finite(rows, key), _finite(rows, f"{key}_se")
        dots = [
            Dot(name, value, value - error, value + error, f"{value:.2f} ± {error:.2f}")
            for name, value, error in zip(names, values, errors, strict=True)
            if value == value
        ]
        note = "Of the expectation of the estimate. Line: ± standard error (jackknife)."
        charts.append(chart(title, note, key, dots))
    return (), charts


#: Study -> its charts from its JSON.
_CHARTS: Mapping[str, Callable[[Any], _Charts]] = {
    "linear": _linear,
    "synthetic": _synthetic,
    "power": _power,
    "variance": _variance,
    "bias": _bias,
}


def _each(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def _finite(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Values of a column; NaN where the record has none."""
    return [float("nan") if row[name] is None else float(row[name]) for row in rows]


def _line(
    name: str, x: Sequence[float], rows: Sequence[Mapping[str, Any]], value: str, error: str
) -> Line:
    y, spread = _each(rows, value), _each(rows, error)
    low = [a - b for a, b in zip(y, spread, strict=True)]
    high = [a + b for a, b in zip(y, spread, strict=True)]
    return Line(name, list(x), y, low, high)
