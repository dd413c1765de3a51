"""How a task's numbers move with its own parameters: records that change ``task.*`` keys alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import pandas as pd

from diffusion_dfl.suite.reporting.layout import HEADLINE, layout_of, plain_name
from diffusion_dfl.suite.reporting.markdown import spread, table_head, table_line
from diffusion_dfl.suite.reporting.paper import ROWS
from diffusion_dfl.suite.reporting.published import NOTE, published_of
from diffusion_dfl.suite.reporting.roles import RUN, SOURCE, STALE
from diffusion_dfl.suite.reporting.selection import Selection, kinds, of_table
from diffusion_dfl.suite.reporting.statistics import Estimate, estimate

_BASELINES = "test.baselines."
CONFIGURED = "as configured"


def sensitivity(runs: pd.DataFrame, wanted: Selection) -> pd.DataFrame:
    """Long frame ``setting``, ``name``, ``kind`` and the estimate of the headline number.

    Args:
        runs: :func:`~diffusion_dfl.suite.reporting.frame.frame` of everything there is.
        wanted: the table; its rows are the setting ``as configured``.

    ``kind`` is ``method``, ``baseline``, ``bound`` or ``published`` (:mod:`.published`). A run belongs to
    a setting if it changes nothing but keys of the task, in the preset of its row.
    """
    rows: list[dict[str, Any]] = []
    found = of_table(runs, wanted)
    if found.empty:
        return pd.DataFrame(rows)
    settings = pd.Series(
        [_setting(run) for run in found[["role", "differs"]].to_dict("records")],
        index=found.index,
        dtype=object,
    )
    kind = kinds(found, wanted)
    presets = set(found.loc[kind == RUN, "preset"])
    current = (settings != CONFIGURED) & found["preset"].isin(presets) | (kind == RUN)
    found = found.assign(setting=settings)[current].dropna(subset=["setting"])
    layout = layout_of(wanted.task)
    for setting in sorted(found["setting"].unique(), key=lambda text: (text != CONFIGURED, text)):
        here = found[found["setting"] == setting]
        for _, name, model, grad in ROWS:
            cell = here[(here["model"] == model) & (here["grad"] == grad)]
            if len(cell):
                rows.append(_row(setting, name, "method", estimate(cell[HEADLINE].tolist())))
        for (model, grad), title in layout.models.items():
            cell = here[(here["model"] == model) & (here["grad"] == grad)]
            if len(cell):
                rows.append(_row(setting, title, "baseline", estimate(cell[HEADLINE].tolist())))
        for column in here.columns:
            if not column.startswith(_BASELINES):
                continue
            known = here[["seed", column]].dropna()
            if len(known):
                values = known.groupby("seed")[column].mean().tolist()
                title = plain_name(layout, column.removeprefix(_BASELINES))
                rows.append(_row(setting, title, "baseline", estimate(values)))
        for metric, title in layout.bounds.items():
            if metric in here and here[metric].notna().any():
                values = here.dropna(subset=[metric]).groupby("seed")[metric].mean().tolist()
                rows.append(_row(setting, title, "bound", estimate(values)))
        for title, cost in published_of(wanted.task, here.get("config", ())).items():
            rows.append(_row(setting, title, "published", estimate([cost])))
    return pd.DataFrame(rows)


def render(numbers: pd.DataFrame, wanted: Selection, higher_is_better: bool) -> str:
    """Markdown: a row a method, baseline, bound or published number, a column a setting; the best method
    of a setting bold."""
    layout = layout_of(wanted.task)
    named = numbers.drop_duplicates("name")
    kinds = dict(zip(named["name"].astype(str), named["kind"].astype(str), strict=True))
    order = [name for _, name, _, _ in ROWS if name in kinds]
    order += [name for name in kinds if kinds[name] != "method"]
    settings = numbers["setting"].unique().tolist()
    cells = {(row["setting"], row["name"]): row for row in numbers.to_dict("records")}
    methods = numbers[(numbers["kind"] == "method") & numbers["mean"].notna()]
    ranked = methods.sort_values("mean", ascending=higher_is_better)
    best = dict(zip(ranked["setting"], ranked["name"], strict=True))  # The last one of a setting.
    lines = [
        f"## {layout.title}: sensitivity to its parameters "
        f"({wanted.source} data, scale {wanted.scale})",
        "",
        *table_head(["Method", *settings]),
    ]
    for name in order:
        texts = []
        for setting in settings:
            row = cells.get((setting, name))
            text = "–" if row is None else spread(_estimate(row), 3)
            texts.append(f"**{text}**" if best.get(setting) == name else text)
        title = name if kinds[name] == "method" else f"_{name}_"
        lines.append(table_line([title, *texts]))
    seeds = []
    for setting in settings:
        counts = methods.loc[methods["setting"] == setting, "count"].unique()
        seeds.append("/".join(str(int(count)) for count in sorted(counts)) or "0")
    lines.append(table_line(["Seeds", *seeds]))
    lines += [
        "",
        f"Mean ± standard error over seeds of the {layout.quantity}{layout.unit}; the best method is bold. "
        "Presets are those of the task as configured: nothing was tuned for a setting.",
    ]
    if (numbers["kind"] == "published").any():
        lines += ["", NOTE]
    return "\n".join(lines) + "\n"


def _setting(run: Mapping[Any, Any]) -> str | None:
    """What a run changes of its task, or None for a run of another kind."""
    if run["role"] in ("", STALE):
        return None
    differs = json.loads(run["differs"])
    changed = {key: value for key, value in differs.items() if key != SOURCE}
    if any(not key.startswith("task.") for key in changed):
        return None
    texts = [f"{key.removeprefix('task.')}={json.dumps(v)}" for key, v in sorted(changed.items())]
    return ", ".join(texts) or CONFIGURED


def _row(setting: str, name: str, kind: str, value: Estimate) -> dict[str, Any]:
    return {"setting": setting, "name": name, "kind": kind, **asdict(value)}


def _estimate(row: Mapping[Any, Any]) -> Estimate:
    return Estimate(**{field.name: row[field.name] for field in fields(Estimate)})
