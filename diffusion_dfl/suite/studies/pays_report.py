"""Tables, figure and page of :mod:`.pays`.

What the page may name (:mod:`diffusion_dfl.suite.reporting.claims`) are :func:`numbers`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusion_dfl.suite.reporting.figures.style import band, legend, panels
from diffusion_dfl.suite.reporting.markdown import table_head, table_line
from diffusion_dfl.suite.reporting.statistics import Estimate, estimate, paired
from diffusion_dfl.suite.studies.pays import AXES, GRADS, MODELS, Axis, check, path_of, read

_TITLES = {"gaussian": "Gaussian", "diffusion": "diffusion"}


def everything(folder: Path) -> pd.DataFrame:
    """Lines of all models.

    Raises:
        UserError: a file that is damaged or of another recipe.
    """
    found = []
    for model in MODELS:
        path = path_of(folder, model)
        found.append(read(path))
        check(found[-1], path, model)
    return pd.concat([one for one in found if len(one)] or found[:1], ignore_index=True)


def at(lines: pd.DataFrame, name: str, axis: Axis, value: float) -> pd.DataFrame:
    """Lines of a setting; those of the task as it is stand for its own value."""
    name, value = ("", 0.0) if value == axis.own else (name, value)
    return lines[(lines["axis"] == name) & (lines["value"] == value)]


def regrets(lines: pd.DataFrame, model: str, grad: str, twin: bool = False) -> pd.Series:
    """Regret of a row, by seed."""
    twins = lines["twin"].astype(str) == str(twin)
    found = lines[(lines["model"] == model) & (lines["grad"] == grad) & twins]
    return found.set_index("seed")["regret"]


def gain(lines: pd.DataFrame, model: str, grad: str) -> Estimate:
    """What a row saves on its twin, paired over seeds, in hundredths of the two-stage regret.

    The interval is that of the differences; the mean that they are divided by is taken as known.
    """
    saved = regrets(lines, model, grad, twin=True) - regrets(lines, model, grad)
    whole = regrets(lines, model, "two_stage").mean()
    return estimate((100.0 * saved / whole).tolist())


def short(lines: pd.DataFrame, model: str) -> str:
    """Markdown: regret of a model's rows and what they save on their twins, a line a value."""
    heads = ["", "Value", "One order for all", "Two-stage"]
    for grad in GRADS:
        heads += [grad, "saves, %"]
    parts = table_head(heads)
    for name, axis in AXES.items():
        for place, value in enumerate(axis.values):
            here = at(lines, name, axis, value)
            cells = ["" if place else axis.title, _shown(value, axis)]
            cells += [_mean(regrets(here, model, grad)) for grad in ("saa", "two_stage")]
            for grad in GRADS:
                cells += [_mean(regrets(here, model, grad)), _saved(gain(here, model, grad))]
            parts.append(table_line(cells))
    return "\n".join(parts)


def numbers(lines: pd.DataFrame) -> dict[str, Any]:
    """What the page may name: ``<model>.<axis>.<value>`` for the two-stage regret, behind it ``.<grad>`` for
    what that row saves on its twin, ``.<grad>.own`` for what it saves on the two-stage fit, both in hundredths
    of that fit's regret and with ``.low`` and ``.high``; ``.<grad>.regret``; ``.saa`` for the regret of one
    order for all contexts; ``<model>.seeds``; ``<model>.table``."""
    found: dict[str, Any] = {f"{model}.table": short(lines, model) for model in MODELS}
    for model in MODELS:
        seeds = []
        for name, axis in AXES.items():
            for value in axis.values:
                here = at(lines, name, axis, value)
                base = regrets(here, model, "two_stage")
                if not len(base):
                    continue
                seeds.append(len(base))
                key = f"{model}.{name}.{value:g}"
                found |= {key: base.mean(), f"{key}.saa": regrets(here, model, "saa").mean()}
                for grad in GRADS:
                    own = regrets(here, model, grad)
                    on_fit = estimate((100 * (base - own) / base.mean()).tolist())
                    found[f"{key}.{grad}.regret"] = own.mean()
                    found |= _ends(f"{key}.{grad}", gain(here, model, grad))
                    found |= _ends(f"{key}.{grad}.own", on_fit)
        found[f"{model}.seeds"] = min(seeds, default=0)
    return found


def _ends(key: str, found: Estimate) -> Mapping[str, float]:
    return {key: found.mean, f"{key}.low": found.low, f"{key}.high": found.high}


def _mean(values: pd.Series) -> str:
    return f"{values.mean():.2f}" if len(values) else "–"


def _saved(found: Estimate) -> str:
    if not found.count:
        return "–"
    if np.isnan(found.low):
        return f"{found.mean:.0f}"
    mean = f"**{found.mean:.0f}**" if found.side() > 0 else f"{found.mean:.0f}"
    return f"{mean} [{found.low:.0f}, {found.high:.0f}]"


def _shown(value: float, axis: Axis) -> str:
    return f"{value:g}" + (" (as it is)" if value == axis.own else "")


def render(lines: pd.DataFrame) -> str:
    """Markdown: a table an axis, a line a value and model."""
    parts = []
    for name, axis in AXES.items():
        parts += [f"## By {axis.title}", ""]
        heads = ["Value", "Model", "saa", "Two-stage regret"]
        for grad in GRADS:
            heads += [f"{grad}: regret", "less its twin", "less two-stage", "saved, %"]
        parts += table_head([*heads, "Seeds"])
        for value in axis.values:
            here = at(lines, name, axis, value)
            for model in MODELS:
                base = regrets(here, model, "two_stage")
                if len(base):
                    parts.append(_line(value, axis, here, model, base))
        parts.append("")
    return "\n".join(parts)


def _line(value: float, axis: Axis, here: pd.DataFrame, model: str, base: pd.Series) -> str:
    plain = estimate(regrets(here, model, "saa").tolist())
    cells = [
        _shown(value, axis),
        _TITLES[model],
        f"{plain.mean:.2f}",
        _number(estimate(base.tolist())),
    ]
    for grad in GRADS:
        own = regrets(here, model, grad)
        twin = regrets(here, model, grad, twin=True)
        part = gain(here, model, grad)
        cells += [
            _number(estimate(own.tolist())),
            _between(paired(own, twin)),
            _between(paired(own, base)),
            f"**{part.mean:.0f}**" if part.side() > 0 else f"{part.mean:.0f}",
        ]
    return table_line([*cells, str(len(base))])


def _number(found: Estimate) -> str:
    return f"{found.mean:.3f}" + ("" if np.isnan(found.error) else f" ± {found.error:.3f}")


def _between(found: Estimate) -> str:
    if np.isnan(found.low):
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def figure(lines: pd.DataFrame, models: Sequence[str] = MODELS) -> Figure:
    """Share of the two-stage regret that a row saves on its twin, a panel an axis."""
    drawing, axes = panels(3, -(-len(AXES) // 3), height=2.6)
    for panel in axes.flat[len(AXES) :]:
        panel.set_axis_off()
    for panel, (name, axis) in zip(axes.flat, AXES.items(), strict=False):
        every = axis.values
        # Values are few, and no scale suits all of them: each has the same room.
        places = range(len(every))
        for index, (model, grad) in enumerate((m, g) for m in models for g in GRADS):
            found = [gain(at(lines, name, axis, value), model, grad) for value in every]
            # Too few seeds for an interval are no line either.
            known = [(x, one) for x, one in zip(places, found, strict=True) if one.low <= one.high]
            if not known:
                continue
            mean = np.array([one.mean for _, one in known])
            error = np.array([one.error for _, one in known])
            band(panel, [x for x, _ in known], mean, error, index, f"{_TITLES[model]}, {grad}")
        panel.axhline(0.0, color="0.4", lw=0.8)
        panel.set_xticks(places, [f"{value:,g}" for value in every])
        panel.set_title(axis.title, fontsize=9)
    for row in axes:
        row[0].set_ylabel("saved on the twin, %")
    legend(axes[0, 0])
    return drawing
