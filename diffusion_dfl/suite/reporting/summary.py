"""Table 1 in short: one number a method and task beside the paper's, for the README and a terminal."""

from collections.abc import Callable, Mapping, Sequence

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.columns import aligned, folded
from diffusion_dfl.suite.reporting.layout import HEADLINE, base_of, layout_of
from diffusion_dfl.suite.reporting.markdown import spread, table_head, table_line
from diffusion_dfl.suite.reporting.paper import ROWS, TABLE_1
from diffusion_dfl.suite.reporting.statistics import Estimate
from diffusion_dfl.suite.reporting.table1 import Table, ranks

_NONE = "–"

#: Where the README's block begins and ends.
BEGIN, END = "<!-- table 1: make readme -->", "<!-- end of table 1 -->"


def summary(tables: Sequence[Table]) -> str:
    """Markdown with a row a method; the paper's number stands behind ours where it has one.

    Args:
        tables: one a task, of one scale.
    """
    heads, rows = _cells(tables, "**{}**".format)
    return "\n".join([*table_head(heads), *map(table_line, rows), "", _note(tables, "bold")]) + "\n"


def in_columns(tables: Sequence[Table]) -> str:
    """The same for a terminal."""
    note = folded(_note(tables, "with an asterisk"))
    return f"{aligned(*_cells(tables, '*{}'.format))}\n\n{note}"


def _cells(
    tables: Sequence[Table], best: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: methods that have runs, then the best of the plain baselines."""
    heads, rows = ["Method"], [[name] for _, name, *_ in ROWS] + [["Best plain baseline"]]
    for table in tables:
        layout = layout_of(table.task)
        arrow = "↑" if table.higher_is_better else "↓"
        unit = f", {layout.unit.strip()}" if layout.unit else ""
        heads.append(f"{layout.title}{unit} {arrow}")
        found, places = table.estimates("method", HEADLINE), ranks(table, "mean")
        for row, (_, name, *cell) in zip(rows, ROWS, strict=False):
            text = _short(found[name]) if name in found else _NONE
            text = best(text) if places.get(name) == 1 else text
            printed = TABLE_1.get(base_of(table.task), {}).get((cell[0], cell[1]))
            with_paper = table.compare and name in found and printed is not None
            row.append(f"{text} [{printed[1].mean:.3f}]" if with_paper and printed else text)
        plain = table.estimates("baseline", HEADLINE)
        rows[-1].append(_short(plain[_best(table, plain)]) if plain else _NONE)
    return heads, [row for row in rows if any(cell != _NONE for cell in row[1:])]


def _short(value: Estimate) -> str:
    return spread(value, 0 if abs(value.mean) >= 1000 else 3)


def _best(table: Table, plain: Mapping[str, Estimate]) -> str:
    choose = max if table.higher_is_better else min
    return choose(plain, key=lambda name: plain[name].mean)


def _note(tables: Sequence[Table], best: str) -> str:
    seeds = {one.count for table in tables for one in table.estimates("method", HEADLINE).values()}
    counted = "–".join(str(count) for count in sorted({min(seeds), max(seeds)})) if seeds else "0"
    paper = " [the paper's]" if any(table.compare for table in tables) else ""
    found = [(table, table.estimates("baseline", HEADLINE)) for table in tables]
    names = "; ".join(_best(table, plain).lower() if plain else _NONE for table, plain in found)
    return (
        f"Mean ± standard error over {counted} seeds, best {best}{paper}. The best plain baselines, in "
        f"the order of the columns: {names}."
    )


def with_block(text: str, block: str) -> str:
    """``text`` with what stands between `BEGIN` and `END` replaced.

    Raises:
        UserError: the marks are not there, once each and in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"README.md needs the lines {BEGIN} and {END}, once each")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{block}\n{END}{after}"
