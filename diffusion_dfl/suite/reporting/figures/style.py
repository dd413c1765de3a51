"""One look for all figures: told apart by marker and line where colour is lost, no display needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Okabe and Ito (2008), which survive every common colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "X", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def panels(
    columns: int,
    rows: int = 1,
    width: float = 3.6,
    height: float = 3.0,
    heights: Sequence[float] | None = None,
) -> Any:
    """A figure and its axes ``(rows, columns)``, each ``width`` by ``height`` inches; rows in the
    proportion of ``heights``."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.grid(color="0.88", lw=0.5)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curve(index: int) -> dict[str, Any]:
    """Colour, marker and line of the ``index``-th curve."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "markersize": 4,
        "linewidth": 1.3,
    }


def band(axis: Any, x: Sequence[float], mean: Any, error: Any, index: int, label: str) -> None:
    """A curve with a band of one standard error."""
    axis.plot(x, mean, label=label, **curve(index))
    axis.fill_between(
        x, mean - error, mean + error, color=PALETTE[index % len(PALETTE)], alpha=0.18, lw=0
    )


def legend(axis: Any, **options: Any) -> None:
    axis.legend(fontsize=7, frameon=False, **options)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """``name.png`` and ``name.pdf``; without dates, so that the same data give the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    figure.savefig(paths[0], dpi=160, metadata={"Software": None})
    figure.savefig(paths[1], metadata={"CreationDate": None})
    return paths
