"""The paper's figures from logged runs: ``make figures``.

A figure is a function of what was logged, in `FIGURES` under its number; it says which files it reads.
"""

from diffusion_dfl.suite.reporting.figures.catalogue import (
    FIGURES,
    YOURS,
    FigureSource,
    MissingRuns,
    draw,
    draw_anew,
)

__all__ = ["FIGURES", "YOURS", "FigureSource", "MissingRuns", "draw", "draw_anew"]
