"""What a task's numbers are called and which of them its table shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from diffusion_dfl.suite.reporting.paper import Cell


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        metric: column of the frame of runs (:func:`diffusion_dfl.suite.reporting.frame.frame`), or the
            part that the two ends of an interval share.
        title: heading.
        digits: after the decimal point.
        interval: whether the metric is a pair of ends.
        unit: how much of the metric is one of what the title says: 1e6 bytes are a megabyte.
    """

    metric: str
    title: str
    digits: int = 3
    interval: bool = False
    unit: float = 1.0


@dataclass(frozen=True)
class Layout:
    """How a task is reported.

    Attributes:
        title: of its table.
        quantity: what its headline number ``task`` is.
        unit: of the headline number, with its leading space; empty for none.
        columns: of its table beside RMSE and ``task``.
        note: what the columns mean.
        baselines: titles of its plain baselines.
        bounds: metric -> title of a number that no decision made beforehand can beat.
        models: cell -> title of one that is no row, whose runs stand among the plain baselines.
    """

    title: str
    quantity: str
    unit: str
    columns: tuple[Column, ...]
    note: str
    baselines: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[Cell, str] = field(default_factory=dict)


HEADLINE = "test.task"

_EXACT = Column("test.task_exact", "Task, exact rule")
_LARGE = Column("test.task_large", "Task, M large")
_CRPS = Column("test.crps", "CRPS", 4)
_COVERAGE = Column("test.coverage_90", "Coverage 90 %")
_LEVEL = Column("test.plan_level", "Plan level", 4)
_REGRET = Column("test.regret", "Regret ↓")

_M_LARGE = "`M large` decides on `evaluation.num_large` scenarios with the trained rule."
_RULES = (
    "`Task` decides with the rule the method was trained with, `exact rule` with the unsmoothed "
    "sample program on the same scenarios. "
)

# The plain baselines of tasks made of a data frame.
_OF_FRAMES = {
    "saa": "Sample average of the rows before the test",
    "knn_saa": "Sample average of the nearest contexts",
}

#: Task -> layout, in the order of the paper.
LAYOUTS: dict[str, Layout] = {
    "synthetic": Layout(
        "Product allocation",
        "cost",
        "",
        (
            _REGRET,
            Column("test.realised_cost", "Realised cost ↓"),
            _LARGE,
            _CRPS,
            _COVERAGE,
        ),
        "`Task` is the expected cost of the decision in closed form, `Regret` what it is above the "
        "optimum's, `Realised cost` the mean over the test rows, as the paper has it. " + _M_LARGE,
        {
            "saa": "Sample average of the training rows",
            "saa_all": "Sample average of training and validation rows",
            "independent_marginals": "Independent marginals",
            "gaussian_plug_in": "Gaussian plug-in",
            "capacity": "As much as possible of everything",
        },
        {"test.optimal_cost": "Optimum of the true distribution"},
    ),
    "power": Layout(
        "Power schedule",
        "cost",
        "",
        (_EXACT, _LARGE, _CRPS, _COVERAGE, _LEVEL),
        "`Task` is the mean cost of a test day, summed over its hours. `Plan level` is the share of "
        "loads at or below the schedule. " + _RULES + _M_LARGE,
        {
            "ols_offsets": "Least squares and an offset an hour",
            "ols_point": "Least squares",
            **{
                f"ols_bootstrap_{size}": f"Least squares and {size} residuals"
                for size in (10, 25, 50, 500)
            },
            "saa": "Sample average of the training loads",
            "knn_saa": "Sample average of the nearest contexts",
        },
        models={
            ("boosting", "two_stage"): "Boosted quantiles",
            ("bootstrap", "two_stage"): "A base's residuals",
            ("deterministic", "cost_weighted"): "Cost-weighted squared error",
        },
    ),
    "portfolio": Layout(
        "Stock portfolio",
        "return",
        " % a day",
        (
            Column("test.interval_95", "95 % over days", 3, interval=True),
            Column("test.mean_variance", "Objective, % ↓"),
            Column("test.volatility", "Volatility, %"),
            Column("test.sharpe", "Sharpe ratio ↑", 2),
            Column("test.turnover", "Turnover", 2),
            Column("test.hindsight_regret", "Hindsight regret, % ↓"),
            _LARGE,
            _CRPS,
            _COVERAGE,
        ),
        "`Task` is the mean return of a test day in percent of the capital, before costs; `95 % over "
        "days` its normal interval over the test days of one seed, both ends averaged over seeds. "
        "`Objective` is the mean-variance cost that is optimised, in percent; `Sharpe ratio` a "
        "year, no riskless rate taken off; `Turnover` the sum of absolute changes of the weights a "
        "day; `Hindsight regret` the objective above that of the best portfolio for the day's own "
        "returns. " + _M_LARGE,
        {
            "equal_weight": "Equal weight",
            "saa_train": "Sample average of the training days",
            "ridge": "Ridge and its residuals",
            "ridge_argmax": "Ridge, all on the best forecast",
            "ridge_argmax_fit": "Ridge of the fit's assets, all on the best forecast",
        },
        {"test.hindsight_return": "All on the best asset of the day, in hindsight"},
    ),
    "inventory": Layout(
        "Inventory",
        "cost",
        "",
        (
            _REGRET,
            Column("test.win_rate_saa", "Wins over sample average"),
            Column("test.realised_cost", "Realised cost ↓"),
            _EXACT,
            _LARGE,
            _CRPS,
            _COVERAGE,
        ),
        "`Task` is the exact expected cost given the context, mean over the test rows; `Regret` what "
        "it is above the optimum's; `Wins over sample average` the share of the rows in which the "
        "order costs less in expectation than the sample average of the training demands. "
        + _RULES
        + _M_LARGE,
        {
            "saa": "Sample average of the training demands",
            "knn_saa": "Sample average of the nearest contexts",
        },
        {"test.optimal_cost": "Optimum of the true distribution"},
    ),
}

#: Tasks that the paper does not have: no rows of its tables, but their own.
BEYOND: dict[str, Layout] = {
    "restaurant": Layout(
        "Restaurant",
        "cost",
        "",
        (_EXACT, _LARGE, _CRPS, _COVERAGE, _LEVEL),
        "`Task` is the mean cost of a test day, the mean over its seven items. `Plan level` is the share "
        "of demands at or below the order; without a storage limit the best is the service level. "
        + _RULES
        + _M_LARGE,
        {
            "saa": "Sample average of the days before the test",
            "knn_saa": "Sample average of the nearest contexts",
        },
        models={
            ("forest", "two_stage"): "Random-forest weights",
            ("boosting", "two_stage"): "Boosted quantiles",
            ("bootstrap", "two_stage"): "A base's residuals",
        },
    ),
}


def layout_of(task: str) -> Layout:
    """Layout of a task; ``power_released`` is laid out as ``power``."""
    base = base_of(task)
    found = LAYOUTS.get(base) or BEYOND.get(base)
    if found is None:
        columns = (_EXACT, _LARGE, _CRPS, _COVERAGE)
        return Layout(task, "task", "", columns, _RULES + _M_LARGE, _OF_FRAMES)
    if task == base:
        return found
    return replace(found, title=f"{found.title}, {task.removeprefix(base + '_')}")


def base_of(task: str) -> str:
    """The task whose variant this one is: ``power_released`` -> ``power``."""
    return task.partition("_")[0]


def plain_name(layout: Layout, baseline: str) -> str:
    """Title of a plain baseline."""
    return layout.baselines.get(baseline, baseline.replace("_", " ").capitalize())
