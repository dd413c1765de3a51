"""The pages of the site in one folder: docs/, and the files outside it that pages link to.

Pages link to result tables, figures and files of the repository by relative paths
(``../results/tables/ablations.md``), which work wherever the repository is browsed. In the site such
a file stands at its path from the repository's root, and the link is rewritten to it; a Markdown file
becomes a page, whose own links are followed in turn.
"""

import posixpath
import re
import shutil
from pathlib import Path

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import write_text

#: Target of an inline link or image, apart from its anchor; code is taken out before.
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\s+\"[^\"]*\")?(\))")
_CODE = re.compile(r"^(?:```.*?^```|    .*?$)|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:", re.IGNORECASE)


def targets(markdown: str) -> list[str]:
    """Relative link targets of a Markdown text, without anchors; those in code are none."""
    text = _CODE.sub("", markdown)
    found = [match.group(2) for match in LINK.finditer(text)]
    return [target for target in found if not _ELSEWHERE.match(target)]


def outside(source: str, target: str) -> str | None:
    """Path from the repository's root of what ``target`` means in a file, if it is outside docs/.

    Args:
        source: path of the file from the repository's root.
        target: relative link target.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return None if path.startswith("docs/") else path


def stage(root: Path, folder: Path) -> None:
    """Make ``folder`` anew: the pages of docs/ with rewritten links, and what they link to.

    Raises:
        UserError: a page that links to no file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "docs", folder, ignore=shutil.ignore_patterns("templates"))
    waiting = [f"docs/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.md")]
    brought: set[str] = set()
    while waiting:
        source = waiting.pop()
        text = (root / source).read_text(encoding="utf-8")
        for target in targets(text):
            path = outside(source, target)
            if path is None or path in brought:
                continue
            if not (root / path).is_file():
                raise UserError(f"{source} links to {target}: there is no file {path}")
            brought.add(path)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, folder / path)
            if path.endswith(".md"):
                waiting.append(path)
        if source.startswith("docs/"):
            page = source.removeprefix("docs/")
            write_text(folder / page, _rewritten(text, source, page))


def _rewritten(text: str, source: str, page: str) -> str:
    """Links that leave docs/ pointed to where their files are in the site."""

    def rewrite(match: re.Match[str]) -> str:
        before, target, anchor, title, after = match.groups(default="")
        path = None if _ELSEWHERE.match(target) else outside(source, target)
        if path is None:
            return match.group(0)
        here = posixpath.relpath(path, posixpath.dirname(page) or ".")
        return f"{before}{here}{anchor}{title}{after}"

    return LINK.sub(rewrite, text)
