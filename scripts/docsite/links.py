"""Hooks of the documentation site: files outside docs/ that pages link to come along.

Pages link to result tables, figures and files of the repository by relative paths
(``../results/tables/ablations.md``), which work wherever the repository is browsed. In the site such
a file stands at its path from the repository's root, and the link is rewritten to it; a Markdown file
becomes a page, whose own links are followed in turn.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: Target of an inline link or image, apart from its anchor; code is taken out before.
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\s+\"[^\"]*\")?(\))")
_CODE = re.compile(r"^(?:```.*?^```|    .*?$)|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:", re.IGNORECASE)


def targets(markdown: str) -> list[str]:
    """Relative link targets of a Markdown text, without anchors; those in code are none."""
    text = _CODE.sub("", markdown)
    found = [match.group(2) for match in LINK.finditer(text)]
    return [target for target in found if not _ELSEWHERE.match(target)]


def outside(page: str, target: str) -> str | None:
    """Path from the repository's root of what ``target`` means on ``page``, if it is outside docs/.

    Args:
        page: source path of the page, from docs/; a page that came along is one of ``results/...``.
        target: relative link target.
    """
    folder = posixpath.dirname(page if came_along(page) else posixpath.join("docs", page))
    path = posixpath.normpath(posixpath.join(folder, target))
    return None if path.startswith("docs/") else path


def came_along(page: str) -> bool:
    """Whether a page of the site is a file from outside docs/."""
    return not (_root() / "docs" / page).is_file()


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, and what that links to."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        file = files.get_file_from_path(page)
        assert file is not None
        for target in targets(file.content_string):
            path = outside(page, target)
            if path is None or files.get_file_from_path(path) is not None:
                continue
            place = _root() / path
            if not place.is_file():
                raise PluginError(f"{page} links to {target}: there is no file {path}")
            added = File.generated(config, path, abs_src_path=str(place))
            files.append(added)
            if added.is_documentation_page():
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to where their files are in the site."""
    source = page.file.src_uri
    if came_along(source):
        return markdown

    def rewrite(match: re.Match[str]) -> str:
        before, target, anchor, title, after = match.groups(default="")
        path = None if _ELSEWHERE.match(target) else outside(source, target)
        if path is None:
            return match.group(0)
        return f"{before}{posixpath.relpath(path, posixpath.dirname(source) or '.')}{anchor}{title}{after}"

    return LINK.sub(rewrite, markdown)
