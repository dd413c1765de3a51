"""The documentation: its Python runs as printed, and its links lead somewhere."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from markdown.extensions.toc import slugify

from tests.commands import ROOT, blocks, is_of_files, pages

#: Pages whose Python a test of their own runs.
ELSEWHERE = [
    "docs/command_line.md",
    *(
        page
        for page in pages()
        if page.startswith("docs/gallery/") and not page.endswith("index.md")
    ),
    *(page for page in pages() if is_of_files(page)),
]

PROGRAMS = [page for page in pages() if any(block.language == "python" for block in blocks(page))]


def without_code(text: str) -> str:
    """A page without its code, in which brackets are no links."""
    text = re.sub(r"^```[\s\S]*?^```|(?:^|(?<=\n\n))(?:    .*\n)+", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "code", text)


def links(page: str) -> list[str]:
    """Targets of the links and images of a page."""
    text = without_code((ROOT / page).read_text(encoding="utf-8"))
    return re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a Markdown file."""
    text = re.sub(r"^```[\s\S]*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]+)\]\([^)]+\)", r"\1", heading)
        found.add(slugify(plain, "-"))
    return found


@pytest.mark.parametrize("page", [page for page in PROGRAMS if page not in ELSEWHERE])
def test_python_blocks_run(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for number, block in enumerate(block for block in blocks(page) if block.language == "python"):
        exec(compile(block.text, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_that_runs_elsewhere_is_named_by_its_test(page: str) -> None:
    others = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(Path(page).name in path.read_text(encoding="utf-8") for path in others)


@pytest.mark.parametrize("page", [*pages(), "docs/templates/audit.md", "docs/templates/pays.md"])
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    # A template's links are those of the page it becomes.
    folder = (ROOT / page.replace("/templates/", "/")).parent
    for link in links(page):
        parts = urlsplit(link)
        # The code host's page of the workflow; tests/test_readme.py looks for its file.
        if parts.scheme or (page == "README.md" and link.startswith("../../actions/")):
            continue
        target = folder / parts.path if parts.path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert ROOT in Path(os.path.abspath(target)).parents, (
            f"{page}: {link} leaves the repository"
        )
        if parts.fragment:
            assert parts.fragment in anchors(target), f"{page}: {link}"


@pytest.mark.parametrize("page", pages())
def test_every_address_is_well_formed(page: str) -> None:
    """They are not fetched: tests need no network."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for address in [*links(page), *re.findall(r"<(https?:[^>]*)>", text)]:
        parts = urlsplit(address)
        if parts.scheme:
            assert parts.scheme in ("https", "mailto"), f"{page}: {address}"
            assert parts.scheme == "mailto" or re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), (
                f"{page}: {address}"
            )


@pytest.mark.parametrize("page", pages())
def test_a_list_has_a_blank_line_before_it(page: str) -> None:
    """Without one the site shows it as a run of text."""
    text = re.sub(r"^```[\s\S]*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M)
    glued = re.findall(r"^(?![-*\s]|\d+\. ).*\S\n(?=[-*] )", text, re.MULTILINE)
    assert glued == []


@pytest.mark.parametrize("page", pages())
def test_every_test_that_is_named_is_there(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / page).read_text(encoding="utf-8")))
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    there = {
        name
        for path in files
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert sorted(named - there) == []
