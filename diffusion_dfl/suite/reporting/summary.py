"""Table 1 in short: one number a method and task beside the paper's, for the README."""

from collections.abc import Sequence

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.layout import HEADLINE, LAYOUTS
from diffusion_dfl.suite.reporting.markdown import spread, table_head, table_line
from diffusion_dfl.suite.reporting.paper import ROWS, TABLE_1
from diffusion_dfl.suite.reporting.table1 import Table, ranks

#: Where the README's block begins and ends.
BEGIN, END = "<!-- table 1: make readme -->", "<!-- end of table 1 -->"


def summary(tables: Sequence[Table]) -> str:
    """Markdown with a row a method; the paper's number stands behind ours where it has one.

    Args:
        tables: one a task, of one scale.
    """
    heads = ["Method"]
    for table in tables:
        layout = LAYOUTS[table.task]
        arrow = "↑" if table.higher_is_better else "↓"
        heads.append(f"{layout.title}, {layout.quantity}{layout.unit} {arrow}")
    lines = table_head(heads)
    found = [table.estimates("method", HEADLINE) for table in tables]
    places = [ranks(table, "mean") for table in tables]
    for _, name, model, grad in ROWS:
        if not any(name in estimates for estimates in found):
            continue
        row = [name]
        for table, estimates, place in zip(tables, found, places, strict=True):
            text = spread(estimates[name], 3) if name in estimates else "–"
            text = f"**{text}**" if place.get(name) == 1 else text
            printed = TABLE_1.get(table.task, {}).get((model, grad))
            row.append(text if printed is None else f"{text} [{printed[1].mean:.3f}]")
        lines.append(table_line(row))
    seeds = {one.count for estimates in found for one in estimates.values()}
    counted = "–".join(str(count) for count in sorted({min(seeds), max(seeds)})) if seeds else "0"
    lines += ["", f"Mean ± standard error over {counted} seeds, best bold [the paper's]."]
    return "\n".join(lines) + "\n"


def with_block(text: str, block: str) -> str:
    """``text`` with what stands between `BEGIN` and `END` replaced.

    Raises:
        UserError: the marks are not there, once each and in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"README.md needs the lines {BEGIN} and {END}, once each")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{block}\n{END}{after}"
