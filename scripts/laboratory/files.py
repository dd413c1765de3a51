"""The four files of a subcommand, ``NAME.json``, ``.md``, ``.png`` and ``.pdf``, and how figures look."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine_readable

from diffusion_dfl.suite.reporting.figures.style import LINES, MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LINES", "MARKERS", "PALETTE", "environment", "ordered_style", "panels", "write_files"]


def environment() -> dict[str, Any]:
    """Versions and threads of this process."""
    return machine_readable.environment(("matplotlib",))


def write_files(
    folder: Path,
    name: str,
    record: dict[str, Any],
    markdown: Callable[[dict[str, Any]], str],
    figure: Callable[[dict[str, Any]], "Figure"],
) -> list[Path]:
    """Write ``record`` as data, as text and as a figure; returns the four paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("json", "md", "png", "pdf")]
    paths[0].write_text(
        json.dumps(machine_readable.plain(record, 6), indent=1) + "\n", encoding="utf-8"
    )
    paths[1].write_text(markdown(record), encoding="utf-8")
    made = figure(record)
    for path in paths[2:]:
        # A date in the file would make every run a change.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
        made.savefig(path, dpi=160, metadata=metadata)
    return paths


def panels(rows: int, columns: int, width: float, height: float, **shared: Any) -> Any:
    """A figure that needs no display, and its axes ``(rows, columns)`` with a faint grid.

    Args:
        rows, columns: of axes.
        width, height: of the figure, inches.
        shared: ``sharex``, ``sharey``.
    """
    # Without pyplot: no global state, no window, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat:
        axis.grid(color="0.88", lw=0.5)
    return made, axes


def ordered_style(index: int, count: int) -> dict[str, Any]:
    """Colour, marker and line of the ``index``-th of ``count`` ordered curves, dark to light."""
    import matplotlib

    return {
        "color": matplotlib.colormaps["viridis"](0.85 * index / max(count - 1, 1)),
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "markersize": 4.5,
        "linewidth": 1.3,
    }
