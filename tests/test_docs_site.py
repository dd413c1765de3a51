"""`make docs`: the site builds without a warning, loads nothing from elsewhere, and is whole."""

import functools
import http.server
import json
import os
import posixpath
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from diffusion_dfl.errors import UserError
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
        [sys.executable, "scripts/make_docs.py", "--site", str(site)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(Path(sys.executable).parent)},
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
    assert "warning" not in said.lower()
    assert "error" not in said.lower()


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
    assert "results/tables/released.html" in site
    assert "results/tables/released.html" in site["audit.html"].links
    assert any(image.endswith("figure1.png") for image in site["index.html"].loaded)


def test_docstrings_leave_no_markup_behind(built: tuple[Path, str]) -> None:
    folder, _ = built
    for path in sorted((folder / "api").glob("*.html")):
        text = path.read_text(encoding="utf-8").split("<article", 1)[1].split("</article>")[0]
        for markup in (":class:", ":func:", ":meth:", ":mod:", "<autoref"):
            assert markup not in text, f"{path.name}: {markup}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if executable is None:
        reason = "there is no chromium; install it by apt"
        if os.environ.get("CI_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    flags = ["--headless", "--no-sandbox", "--disable-gpu"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=flags)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def served(built: tuple[Path, str]) -> Iterator[str]:
    """Address of the site at a plain server."""
    handler = functools.partial(Quiet, directory=str(built[0]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_search_finds_a_page(
    browser: Browser, served: str, scheme: str
) -> None:
    context = browser.new_context(color_scheme=scheme)
    context.set_default_timeout(10_000)
    for name in ("index", "extend", "api/layers", "gallery/battery"):
        page = context.new_page()
        page.goto(f"{served}/{name}.html")
        found = Axe().run(page).response["violations"]
        serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], (name, found)
    page.locator("[aria-label='Search'], .md-search__button").first.click()
    page.wait_for_timeout(500)  # Its field takes the keys once it is drawn.
    page.keyboard.type("recourse", delay=20)
    page.locator("a[href*='gallery/recourse.html?h=']").first.wait_for()
    context.close()


def test_versions_stand_beside_each_other_and_the_newest_is_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from docsite import versions  # type: ignore[import-not-found]

    for name in ("0.9.0", "0.10.0", "latest", "api"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text(name)
    assert versions.index(tmp_path) == ["0.10.0", "0.9.0"]
    listed = json.loads((tmp_path / "versions.json").read_text())
    assert [one["version"] for one in listed] == ["0.10.0", "0.9.0"]
    assert [one["aliases"] for one in listed] == [["latest"], []]
    assert "url=0.10.0/index.html" in (tmp_path / "index.html").read_text()
    assert "url=../0.10.0/index.html" in (tmp_path / "latest" / "index.html").read_text()
    with pytest.raises(UserError, match="VERSION=next must be MAJOR"):
        versions.check("next")


def test_a_version_is_built_into_a_folder_of_its_own_with_a_switch(tmp_path: Path) -> None:
    (tmp_path / "0.1.0").mkdir()
    (tmp_path / "0.1.0" / "index.html").write_text("older")
    command = [sys.executable, "scripts/make_docs.py", "--version", "0.2.0", "--site"]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "versions: 0.2.0, 0.1.0" in done.stdout
    assert (tmp_path / "0.1.0" / "index.html").read_text() == "older"
    page = (tmp_path / "0.2.0" / "index.html").read_text(encoding="utf-8")
    assert '"provider":"mike"' in page.replace(" ", "")


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
