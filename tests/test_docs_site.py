"""`make docs`: the site builds without a warning, loads nothing from elsewhere, and is whole."""

import posixpath
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.slow

#: Attributes by which a page has something loaded; a link is only followed.
LOADED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}


class Page(HTMLParser):
    """What a page loads, links to and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag in LOADED and attributes.get(LOADED[tag]):
            self.loaded.append(attributes[LOADED[tag]])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        self.anchors.update(attributes[name] for name in ("id", "name") if attributes.get(name))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The site's folder and what was said while it was built."""
    site = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(Path(sys.executable).parent), "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return site, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(built: tuple[Path, str]) -> dict[str, Page]:
    """Every page by its path; the one of errors stands at no fixed place."""
    folder, _ = built
    return {
        path.relative_to(folder).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
        if path.name != "404.html"
    }


def local(page: str, link: str) -> tuple[str, str] | None:
    """Path and anchor of a link within the site; None for an address."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path)))
    return (path if parts.path else page), unquote(parts.fragment)


def test_the_build_says_nothing_to_worry_about(built: tuple[Path, str]) -> None:
    _, said = built
    assert "WARNING" not in said
    assert "ERROR" not in said


def test_no_page_loads_anything_from_elsewhere(built: tuple[Path, str]) -> None:
    folder, _ = built
    for path in sorted(folder.rglob("*.html")):
        page = Page(path.read_text(encoding="utf-8"))
        away = [one for one in page.loaded if urlsplit(one).scheme or urlsplit(one).netloc]
        assert away == [], path
    for path in sorted(folder.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        assert "url(http" not in text and "@import" not in text, path


def targets(site: dict[str, Page]) -> Iterator[tuple[str, str, str, str]]:
    """Page, link as it stands, path and anchor of every link within the site."""
    for name, page in site.items():
        for link in (*page.links, *page.loaded):
            found = local(name, link)
            if found is not None:
                yield name, link, *found


def test_every_link_of_every_page_leads_to_a_file_and_an_anchor(
    built: tuple[Path, str], site: dict[str, Page]
) -> None:
    folder, _ = built
    broken = [
        f"{name}: {link}"
        for name, link, path, anchor in targets(site)
        if not (folder / path).is_file()
        or (anchor and path in site and anchor not in site[path].anchors)
    ]
    assert broken == []


def test_every_page_can_be_reached_from_the_first(site: dict[str, Page]) -> None:
    leads: dict[str, set[str]] = {name: set() for name in site}
    for name, _, path, _ in targets(site):
        leads[name].add(path)
    reached, waiting = {"index.html"}, ["index.html"]
    while waiting:
        new = (leads[waiting.pop()] & site.keys()) - reached
        reached |= new
        waiting += new
    assert reached == site.keys()


def test_tables_and_figures_outside_of_docs_come_along(site: dict[str, Page]) -> None:
    assert "results/tables/ablations.html" in site
    assert "results/tables/ablations.html" in site["audit.html"].links
    assert any(image.endswith("figure1.png") for image in site["index.html"].loaded)


def test_docstrings_leave_no_markup_behind(built: tuple[Path, str]) -> None:
    folder, _ = built
    for path in sorted((folder / "api").glob("*.html")):
        text = path.read_text(encoding="utf-8").split("<article", 1)[1].split("</article>")[0]
        for markup in (":class:", ":func:", ":meth:", ":mod:", "<autoref"):
            assert markup not in text, f"{path.name}: {markup}"


def test_every_name_that_a_package_exports_is_documented(site: dict[str, Page]) -> None:
    import importlib

    for package in ("programs", "solvers", "layers", "estimators", "predictors", "data", "tasks"):
        module = importlib.import_module(f"diffusion_dfl.{package}")
        text = (ROOT / "docs" / "api" / f"{package}.md").read_text(encoding="utf-8")
        assert f"::: diffusion_dfl.{package}\n" in text
        shown = site[f"api/{package}.html"].anchors
        missing = [
            name for name in module.__all__ if f"diffusion_dfl.{package}.{name}" not in shown
        ]
        assert missing == [], package
