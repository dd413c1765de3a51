"""What every figure shows, and what it reads."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.collect import Collection, collect
from diffusion_dfl.suite.reporting.figures import learning, overview, problems, studies, yours
from diffusion_dfl.suite.reporting.figures.style import save
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.paper import Cell
from diffusion_dfl.suite.reporting.selection import Selection, of_cell, selection
from diffusion_dfl.suite.reporting.table1 import Table, build


class MissingRuns(UserError):
    """A figure's runs are not there; the message has the command that makes them."""


@dataclass(frozen=True)
class FigureSource:
    """What figures read: a results folder.

    Attributes:
        results: with ``published/``, ``runs/``, ``gradient_lab/``, ``benchmarks/``, ``figures/data/``.
        scale: of the runs.
        own: whether the user's own runs count beside the committed ones.
        given: directories of the user's runs that figures were given.
    """

    results: Path
    scale: str = "laptop"
    own: bool = True
    given: set[str] = field(default_factory=set, init=False, compare=False)

    @cached_property
    def runs(self) -> pd.DataFrame:
        return frame(self._collection)

    @cached_property
    def _collection(self) -> Collection:
        return collect(self.results, own=self.own)

    def of(self, task: str) -> Selection:
        return selection(self.runs, task, self.scale)

    def table(self, task: str) -> Table:
        """Table of a task."""
        made = build(self.runs, self.of(task))
        if made.own:
            self.given.add(f"{self.scale}/{task}")
        return made

    def cell(self, task: str, model: str, grad: str, **changes: Any) -> pd.DataFrame:
        """Runs of a cell, with ``section__key=value`` changed; a row a seed.

        Raises:
            MissingRuns: there is none.
        """
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        runs = of_cell(self.runs, self.of(task), (model, grad), keys)
        if runs.empty:
            words = " ".join(f"{key}={value}" for key, value in keys.items())
            raise MissingRuns(
                "its runs are not there; make them with "
                f"`python train.py task={task} model={model} grad={grad} {words}".rstrip()
                + " -m seed=0-9`"
            )
        self.given.update(runs["path"][~runs["published"].astype(bool)])
        return runs

    def cells(self, task: str, cells: Iterable[Cell]) -> dict[Cell, pd.DataFrame]:
        """Runs of those cells that have any.

        Raises:
            MissingRuns: none has.
        """
        found, lacking = {}, None
        for cell in cells:
            try:
                found[cell] = self.cell(task, *cell)
            except MissingRuns as error:
                lacking = lacking or error
        if lacking and not found:
            raise lacking
        return found

    def epochs(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Epochs of the runs' decision-focused stage, one row a seed and epoch."""
        rows = [
            {"seed": run["seed"], **epoch}
            for run in runs[["seed", "path", "published"]].to_dict("records")
            for epoch in self._collection.epochs(run["path"], run["published"])[0]
            if epoch["stage"] in ("train", "refit-train")
        ]
        if not rows:
            raise MissingRuns("its runs have no learning curves (metrics.jsonl)")
        return pd.DataFrame(rows)

    def json(self, *parts: str) -> Any:
        """A file of results/.

        Raises:
            MissingRuns: it is not there.
        """
        path = self.results.joinpath(*parts)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingRuns(f"{path} is not there; docs/reproduce.md has its command") from None


@dataclass(frozen=True)
class Entry:
    """A figure.

    Attributes:
        title: what it shows.
        reads: files or runs it is made from, in words.
        make: the drawing.
    """

    title: str
    reads: str
    make: Callable[[FigureSource], Figure]


#: The user's runs, of whatever task and scale.
YOURS = Entry("Your runs beside plain baselines", "runs/", yours.yours)

FIGURES: Mapping[str, Entry] = {
    "overview": Entry(
        "All methods on two tasks beside the paper",
        "records of power and synthetic",
        overview.overview,
    ),
    "figure1": Entry(
        "Deterministic and stochastic decisions, and the learned density",
        "figures/data/figure1.json (scripts/make_figures.py --collect: one run of synthetic, d = 1)",
        problems.figure1,
    ),
    "figure2": Entry(
        "Cosine of score and reparameterization gradients on the synthetic task",
        "gradient_lab/synthetic.json",
        studies.figure2,
    ),
    "figure3": Entry(
        "Learning curves: scenarios, timesteps, how timesteps are drawn",
        "metrics.jsonl of power: diffusion score (M, k, scheme varied) and reparam",
        learning.figure3,
    ),
    "figure4": Entry(
        "Cost against memory held for the backward pass",
        "records of power, laptop; benchmarks/memory.json for the paper's sizes",
        studies.figure4,
    ),
    "figure5": Entry(
        "Regret against the number of assets",
        "records of portfolio with task.num_assets varied",
        studies.figure5,
    ),
    "figure6": Entry(
        "Cosine with the true gradient, linear Gaussian model",
        "gradient_lab/linear.json",
        studies.figure6,
    ),
    "figure7": Entry("Power: cost by hour", "records of power", problems.figure7),
    "figure8": Entry(
        "Learning curves of score function and reparameterization",
        "metrics.jsonl of power: diffusion score and reparam, ten seeds",
        learning.figure8,
    ),
    "figure9": Entry(
        "Number of scenarios: cost and time",
        "records of power: diffusion score and reparam, M varied",
        learning.figure9,
    ),
    "figure10": Entry(
        "Inventory: regret, decisions, wins", "records of inventory", problems.figure10
    ),
    "figure11": Entry(
        "Inventory: predicted and true demand",
        "figures/data/figure11.json (scripts/make_figures.py --collect: one run of inventory)",
        problems.figure11,
    ),
}


def draw(name: str, source: FigureSource, folder: Path) -> list[Path]:
    """Make a figure's files.

    Raises:
        MissingRuns: what it reads is not there.
    """
    return save(FIGURES[name].make(source), folder, name)


def draw_anew(source: FigureSource, name: str, committed: Path, own: Path) -> list[Path]:
    """Make a figure's files in ``own`` if it shows a run of the user's, else in ``committed`` if it is
    not there; none where it is.

    Raises:
        MissingRuns: what it reads is not there.
    """
    source.given.clear()
    figure = FIGURES[name].make(source)
    if source.given:
        return save(figure, own, name)
    if (committed / f"{name}.png").exists():
        return []
    return save(figure, committed, name)
