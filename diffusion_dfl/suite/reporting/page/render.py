"""The page as one string of HTML: styles, scripts and data inside, nothing to fetch.

A content security policy with the digests of its own scripts and styles keeps everything else from
running, and the network out of reach, whatever a record says. Markup is Jinja's with every value
escaped; scripts write text, never HTML.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from diffusion_dfl.suite.reporting.figures.style import PALETTE
from diffusion_dfl.suite.reporting.layout import layout_of
from diffusion_dfl.suite.reporting.markdown import TWIN_NOTE, difference_note, notes
from diffusion_dfl.suite.reporting.own import TRIED_OUT, own_note
from diffusion_dfl.suite.reporting.page.document import paragraph
from diffusion_dfl.suite.reporting.page.dots import task_chart
from diffusion_dfl.suite.reporting.page.gather import Report, Shown
from diffusion_dfl.suite.reporting.page.grids import difference_grid, main_grid, own_grid, twin_grid
from diffusion_dfl.suite.reporting.page.payload import charts, dumps, payload
from diffusion_dfl.suite.reporting.status import STATES, completing

# In the order they run.
_SCRIPTS = ("common.js", "tabs.js", "sort.js", "chart.js", "curves.js", "detail.js", "runs.js")
_STYLES = ("base.css", "parts.css")

# Of the reader's own tables, how many have a card.
_CARDS = 3


def render(report: Report) -> str:
    """The page; the same report gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("diffusion_dfl.suite.reporting.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The palette's last colour is black, which the page has as its text colour.
    colours = "".join(f"--series-{i}:{colour};" for i, colour in enumerate(PALETTE[:-1]))
    style = f":root{{{colours}}}\n" + "\n".join(_asset(name) for name in _STYLES)
    theme = _asset("theme.js")
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_digest(theme)} {_digest(script)}; "
        f"style-src {_digest(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        policy=policy,
        style=Markup(style),
        theme=Markup(theme),
        script=Markup(script),
        data=Markup(dumps(payload(report))),
        report=report,
        tables=_tables(report.tables),
        studies=[{"study": study, "charts": charts(study)} for study in report.studies],
        states=STATES,
        status=_status(report),
        facts=_facts(report),
        planned=_planned(report),
        own=[(own_grid(table), table.title, paragraph(own_note(table))) for table in report.own],
        commands=list(completing(report.states)),
    )


def _tables(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """What the tables' tabs show; scale and data are named where they tell two tables apart."""
    tables = [one.table for one in shown]
    sources = Counter((table.task, table.scale) for table in tables)
    return [_table(one, sources[(one.table.task, one.table.scale)] > 1) for one in shown]


def _table(shown: Shown, with_source: bool) -> dict[str, Any]:
    table, layout = shown.table, layout_of(shown.table.task)
    beside = [] if table.scale == "laptop" else [table.scale]
    if with_source:
        beside.append(table.source)
    arrow = "more is better" if table.higher_is_better else "less is better"
    return {
        "id": "-".join((table.task, table.scale, table.source)),
        "key": "/".join((table.task, table.scale, table.source)),
        "label": ", ".join([layout.title, *beside]),
        "title": f"{layout.title}: {table.source} data, scale {table.scale}",
        "main": main_grid(table, shown.places),
        "differences": difference_grid(table),
        "twins": twin_grid(table),
        "notes": [paragraph(note) for note in notes(table)],
        "difference_note": paragraph(difference_note(table)),
        "twin_note": paragraph(TWIN_NOTE),
        "dots": task_chart(table, f"{layout.quantity}{layout.unit}, {arrow}"),
    }


def _status(report: Report) -> list[tuple[str, Counter[str]]]:
    """Planned runs by cell and state."""
    cells: dict[str, Counter[str]] = {}
    for run, state in report.states.items():
        cells.setdefault(run.cell.as_posix(), Counter())[state.name] += 1
    return list(cells.items())


def _facts(report: Report) -> Sequence[tuple[str, str]]:
    """Number and what it counts, those of the reader's own runs first."""
    records = [run for run in report.runs if run.values]
    facts = []
    if report.own:
        facts.append((str(sum(table.count for table in report.own)), "runs of yours"))
    for table in [one for one in report.own if one.scale not in TRIED_OUT][:_CARDS]:
        layout, (number, method) = layout_of(table.task), table.best
        told = f"{layout.title}, scale {table.scale}: best {layout.quantity} of yours, {method}"
        facts.append((number, told))
    facts += [
        (str(len(records)), "records of finished runs"),
        (_planned(report), "planned or started runs finished"),
        (str(len(report.left_out)), "directories left out"),
        (str(len(_stale(report))), "planned or own records of an older preset"),
    ]
    if report.tuning:
        facts.append((str(report.tuning), "tuning runs without test numbers"))
    return facts


def _stale(report: Report) -> set[str]:
    listed = {run.path.partition("/")[2] for run in report.runs if run.state == "stale"}
    planned = {run.path.as_posix() for run, told in report.states.items() if told.name == "stale"}
    return listed | planned


def _planned(report: Report) -> str:
    """Finished of planned runs."""
    finished = sum(state.name == "finished" for state in report.states.values())
    return f"{finished} of {len(report.states)}"


def _asset(name: str) -> str:
    return (files("diffusion_dfl.suite.reporting.page") / "assets" / name).read_text(
        encoding="utf-8"
    )


def _digest(text: str) -> str:
    told = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{told}'"
