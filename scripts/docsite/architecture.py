"""Packages and who imports whom, read from the source, as a table and as a picture.

A box is a subpackage. Single modules have none: an import of one counts as an import of what it imports.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Where people come in; boxes too.
ENTRANCES = ("train.py", "scripts")
SUITE = "suite."

#: Box -> where its middle stands across the picture, from 0 to 1. Rows follow from the arrows.
ACROSS = {
    "train.py": 0.25, "scripts": 0.6,
    "suite.commands": 0.25, "suite.reporting": 0.25, "suite.search": 0.65, "suite.runs": 0.45,
    "suite.loggers": 0.12, "suite.config": 0.9, "suite.studies": 0.65,
    "training": 0.45, "estimators": 0.24, "tasks": 0.72, "layers": 0.45, "solvers": 0.45,
    "programs": 0.45, "predictors": 0.1, "data": 0.92, "cones": 0.91,
}  # fmt: skip

#: API pages, by box; the others are named after theirs.
_API = {"training": "train", "suite.reporting": "reporting"}


@dataclass(frozen=True)
class Graph:
    """Boxes and what each imports of the others.

    Attributes:
        meanings: box -> the first paragraph of its docstring.
        imports: box -> boxes that its modules import when they are imported.
        calls: likewise, of those it imports only within functions and does not reach otherwise.
    """

    meanings: Mapping[str, str]
    imports: Mapping[str, frozenset[str]]
    calls: Mapping[str, frozenset[str]]

    def reach(self, box: str) -> set[str]:
        """What a box imports, and what that does in turn."""
        found: set[str] = set()
        waiting = [box]
        while waiting:
            new = self.imports[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    def arrows(self) -> list[tuple[str, str]]:
        """Imports that do not follow from others (the transitive reduction)."""
        implied = {
            box: {far for near in self.imports[box] for far in self.reach(near)}
            for box in self.imports
        }
        return [(a, b) for a in self.imports for b in sorted(self.imports[a] - implied[a])]

    def row(self, box: str) -> int:
        """Arrows of the longest way down; the suite is above all of the library, and people above it."""
        floors = (
            [0]
            if _floor(box) == 0
            else [1 + self.row(other) for other in self.imports if _floor(other) < _floor(box)]
        )
        return max([*floors, *(1 + self.row(below) for below in self.imports[box])])


def _floor(box: str) -> int:
    return 2 if box in ENTRANCES else int(box.startswith(SUITE))


def read(root: Path) -> Graph:
    """The graph of a checkout.

    Raises:
        ValueError: packages that import each other, of which the way is.
    """
    modules = {_module(path.relative_to(root)): path for path in _sources(root)}
    whole = {name: set(_imports(path, modules, whole=True)) for name, path in modules.items()}
    first = {name: set(_imports(path, modules, whole=False)) for name, path in modules.items()}
    boxes = {name: _box(path.relative_to(root)) for name, path in modules.items()}
    names = [box for box in ACROSS if box in boxes.values()]
    names += sorted({box for box in boxes.values() if box} - set(names))
    imports = _between(boxes, names, first)
    graph = Graph({name: _meaning(root, name) for name in names}, imports, {})
    for name in names:
        if name in graph.reach(name):
            raise ValueError(f"{name} imports itself, by way of {sorted(graph.reach(name))}")
    later = _between(boxes, names, whole)
    calls = {name: frozenset(later[name] - graph.reach(name)) for name in names}
    return Graph(graph.meanings, imports, calls)


def _sources(root: Path) -> Iterator[Path]:
    yield root / "train.py"
    for folder in ("diffusion_dfl", "scripts"):
        yield from sorted((root / folder).rglob("*.py"))


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _box(path: Path) -> str | None:
    """The box of a file; None for a single module of the library or the suite."""
    top, *inner = path.parts
    if top in ENTRANCES:
        return top
    depth = 2 if inner[0] == "suite" else 1
    return ".".join(inner[:depth]) if len(inner) > depth else None


def _imports(path: Path, modules: Mapping[str, Path], whole: bool) -> Iterator[str]:
    """Modules of the package that a file imports; those within functions only if ``whole``."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in modules)
        elif isinstance(node, ast.ImportFrom) and str(node.module) in modules:
            inner = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in modules else str(node.module) for name in inner)
        elif whole or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)


def _between(
    boxes: Mapping[str, str | None], names: Iterable[str], imports: Mapping[str, set[str]]
) -> dict[str, frozenset[str]]:
    """Imports between boxes, single modules passed through."""
    # The package itself only points to where its public names live.
    through = {name for name, box in boxes.items() if box is None and name != "diffusion_dfl"}
    found: dict[str, set[str]] = {name: set() for name in names}
    for name, box in boxes.items():
        if box is None:
            continue
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            new = imports[waiting.pop()] - seen
            seen |= new
            waiting += new & through
        found[box] |= {other for one in seen if (other := boxes[one]) is not None} - {box}
    return {name: frozenset(ones) for name, ones in found.items()}


def _meaning(root: Path, box: str) -> str:
    """First paragraph of a package's docstring."""
    if box in ENTRANCES:
        return ""
    path = root.joinpath("diffusion_dfl", *box.split("."), "__init__.py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else ""
    if not text:
        raise ValueError(f"{path.relative_to(root)} does not say what the package is for")
    said = " ".join(text.split("\n\n")[0].split()).replace("``", "`")
    said = re.sub(r"^\w+: ", "", said)  # "Data: sources": the name stands beside it.
    return said[0].upper() + said[1:]


def table(graph: Graph, docs: Path) -> str:
    """A line a package, the library first; linked to its API page where ``docs`` has one."""
    boxes = [box for box in graph.meanings if box not in ENTRANCES]
    boxes.sort(key=lambda box: (box.startswith(SUITE), graph.row(box)))
    lines = ["| package | what it is for |", "|---|---|"]
    for box in boxes:
        page = f"api/{_API.get(box, box)}.md"
        name = f"[`{box}`]({page})" if (docs / page).is_file() else f"`{box}`"
        lines.append(f"| {name} | {graph.meanings[box]} |")
    return "\n".join(lines)


# The picture, in pixels.
_WIDTH, _ROW, _BOX = 760, 66, (112, 30)


def picture(graph: Graph) -> str:
    """The graph as SVG."""
    homeless = sorted(graph.meanings.keys() - ACROSS.keys())
    if homeless:
        raise ValueError(f"give {', '.join(homeless)} a place in ACROSS")
    top = max(map(graph.row, graph.meanings))
    places = {
        box: (round(40 + ACROSS[box] * (_WIDTH - 80)), 40 + (top - graph.row(box)) * _ROW)
        for box in graph.meanings
    }
    parts = []
    for floor, label in ((1, "diffusion_dfl.suite"), (0, "diffusion_dfl")):
        rows = [y for box, (_, y) in places.items() if _floor(box) == floor]
        low, high = min(rows) - 27, max(rows) + 27
        parts.append(
            f'<rect class="group" x="8" y="{low}" width="{_WIDTH - 16}" height="{high - low}" rx="8"/>'
            f'<text class="label" x="20" y="{low + 18}">{label}</text>'
        )
    arrows = [(a, b, "arrow") for a, b in graph.arrows()]
    arrows += [(a, b, "arrow later") for a in graph.calls for b in sorted(graph.calls[a])]
    for a, b, kind in arrows:
        parts.append(f'<path class="{kind}" d="{_curve(places[a], places[b])}"/>')
    for box, (x, y) in places.items():
        width, height = _BOX
        kind = "entrance" if box in ENTRANCES else "box"
        parts.append(
            f'<rect class="{kind}" x="{x - width // 2}" y="{y - height // 2}" width="{width}" '
            f'height="{height}" rx="5"/>'
            f'<text x="{x}" y="{y + 5}">{box.removeprefix(SUITE)}</text>'
        )
    size = f'width="{_WIDTH}" height="{80 + top * _ROW}"'
    box = f'viewBox="0 0 {_WIDTH} {80 + top * _ROW}"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box}>', _STYLE, *parts, "</svg>", ""]
    )


_STYLE = """<style>
  text { font: 14px sans-serif; text-anchor: middle; fill: #1a1a1a }
  .label { text-anchor: start; fill: #666 }
  .paper { fill: #fff }
  .group { fill: #f4f6f8; stroke: #c8ced6 }
  .box { fill: #fff; stroke: #345a8a }
  .entrance { fill: #345a8a; fill-opacity: 0.12; stroke: none }
  .arrow { fill: none; stroke: #666; stroke-width: 1.2; marker-end: url(#tip) }
  .later { stroke-dasharray: 4 3 }
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">
  <path d="M0 0 L8 4 L0 8 z" fill="#666"/></marker></defs>
<rect class="paper" width="100%" height="100%"/>"""


def _curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From the lower edge of a box to the upper one of another; upwards, around the right."""
    half = _BOX[1] // 2
    (x0, y0), (x1, y1) = start, end
    if y1 <= y0:
        x0, x1 = x0 + _BOX[0] // 2, x1 + _BOX[0] // 2
        return f"M{x0} {y0} C{x0 + 40} {y0} {x1 + 40} {y1} {x1} {y1}"
    y0, y1 = y0 + half, y1 - half
    bend = (y1 - y0) // 2
    return f"M{x0} {y0} C{x0} {y0 + bend} {x1} {y1 - bend} {x1} {y1}"


def with_block(text: str, name: str, content: str, target: str = "architecture") -> str:
    """The page with what stands under ``name`` made anew by ``make target``.

    Raises:
        ValueError: the page has no such block.
    """
    begin, end = f"<!-- {name}: make {target} -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"the page lacks {begin} ... {end}")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
