"""The gallery's worked problems: a script, and made from it a notebook and blocks of its page."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docsite.architecture import with_block

#: In the order of the site.
NAMES = ("newsvendor", "battery", "portfolio", "staffing", "risk_budget", "recourse")

#: Cells that a page shows; the whole script is linked.
_SHOWN = ("Program", "Training")


@dataclass(frozen=True)
class Problem:
    """A worked problem by its name, in a repository.

    Attributes:
        root: of the repository.
        name: of the script, the notebook and the page.
        repository: where the repository is published, or None.
    """

    root: Path
    name: str
    repository: str | None

    @property
    def script(self) -> Path:
        return self.root / "examples" / "gallery" / f"{self.name}.py"

    @property
    def notebook(self) -> Path:
        return self.script.with_suffix(".ipynb")

    @property
    def page(self) -> Path:
        return self.root / "docs" / "gallery" / f"{self.name}.md"

    def notebook_text(self) -> str:
        """The notebook without outputs, the same every time."""
        import jupytext
        import nbformat

        made = jupytext.read(self.script, fmt="py:percent")
        if self.repository is not None:
            line = f'%pip install --quiet "diffusion-dfl @ git+{self.repository}"'
            made.cells.insert(1, nbformat.v4.new_code_cell(line))
        cells: list[Any] = made.cells
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number}"  # jupytext's own are random
        made.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
        made.nbformat, made.nbformat_minor = 4, 5
        return json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True) + "\n"

    def links(self) -> str:
        """Where the script and the notebook are, and Colab where the repository has an address."""
        up = "../../examples/gallery/"
        found = [f"[script]({up}{self.name}.py)", f"[notebook]({up}{self.name}.ipynb)"]
        at = colab(self.repository, f"examples/gallery/{self.name}.ipynb")
        if at is not None:
            found.append(f"[open in Colab]({at})")
        return " · ".join(found)

    def cells(self) -> str:
        """The cells that the page shows, as a block of Python."""
        parts = re.split(r"^# %% ?(.*)\n", self.script.read_text(encoding="utf-8"), flags=re.M)
        shown = [
            text.strip()
            for title, text in zip(parts[1::2], parts[2::2], strict=True)
            if title in _SHOWN
        ]
        return "```python\n" + "\n\n".join(shown) + "\n```"

    def page_text(self, printed: str | None = None) -> str:
        """The page with its blocks made anew; the numbers stay where none are given."""
        text = self.page.read_text(encoding="utf-8")
        text = with_block(text, "links", self.links(), "gallery")
        text = with_block(text, "script", self.cells(), "gallery")
        if printed is not None:
            text = with_block(text, "numbers", f"```text\n{printed.rstrip()}\n```", "gallery")
        return text


_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def colab(repository: str | None, path: str) -> str | None:
    """Colab's address of a notebook on the main branch; None where the host is not one it opens."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", repository or "")
    if found is None:
        return None
    return f"https://colab.research.google.com/github/{found[1]}/blob/main/{path}"


def problems(root: Path) -> list[Problem]:
    """All of them; the address is ``Repository`` of the project's URLs, the one place that has it."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository")
    return [Problem(root, name, repository) for name in NAMES]
