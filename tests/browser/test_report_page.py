"""The report page in a real browser: it works by pointer and by keyboard, asks nothing of the network,
and axe finds nothing serious, light and dark, on a desk and on a phone."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from diffusion_dfl.suite.reporting.page.gather import gather
from diffusion_dfl.suite.reporting.page.render import render
from tests.suite.reporting.page.pages import (
    HOSTILE,
    ROOT,
    add,
    add_own,
    make_results,
    page_of,
    place,
    with_laboratory,
)
from tests.suite.reporting.records import summary

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@dataclass
class Seen:
    """A loaded page, and what its browser said.

    Attributes:
        page: the page.
        complaints: console errors and warnings, and uncaught exceptions.
        requests: addresses asked for, the page's own among them.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if executable is None:
        reason = "there is no chromium; install it by apt"
        if os.environ.get("CI_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=30_000)  # A busy machine is no failure of the page.
    with sync_playwright() as driver:
        # The driver makes a new profile for every start.
        started = driver.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a few records, some of them hostile or no records."""
    results = tmp_path_factory.mktemp("results")
    make_results(results)
    with_laboratory(results)
    hostile = summary("gaussian", "score", 0, 4.0, config_hash="x", differs={"a.b": HOSTILE})
    add(results, place("gaussian", "score", 0, "-0000000b"), hostile)
    add(results, place("policy", "policy", 0), '{"schema": 1, "iden')
    target = results / "report.html"
    target.write_text(page_of(results), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of this project's own records, whatever has been run in this clone."""
    results = tmp_path_factory.mktemp("committed")
    for name in ("published", "gradient_lab"):
        shutil.copytree(ROOT / "results" / name, results / name)
    report = gather(results, ROOT / "docs" / "audit.md", [])
    target = results / "index.html"
    target.write_text(render(report), encoding="utf-8")
    return target


def load(
    browser: Browser, path: Path, scheme: str = "light", phone: bool = False, address: str = ""
) -> Seen:
    context = browser.new_context(
        viewport=PHONE if phone else DESK,  # type: ignore[arg-type]
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
        has_touch=phone,
    )
    seen = Seen(context.new_page())
    seen.page.on(
        "console",
        lambda said: (
            seen.complaints.append(said.text) if said.type in ("error", "warning") else None
        ),
    )
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("request", lambda asked: seen.requests.append(asked.url))
    seen.page.goto(path.as_uri() + address)
    seen.page.wait_for_selector("#run-list tbody tr")
    return seen


def column(page: Page, index: int) -> list[str]:
    """Texts of a column of the main table."""
    rows = page.locator("table[data-name=main]").first.locator("tbody tr")
    return [
        text.strip() for text in rows.locator(f":scope > :nth-child({index})").all_inner_texts()
    ]


def means(texts: list[str]) -> list[float]:
    """The numbers texts begin with, in their order; of those that have one."""
    return [float(text.split()[0]) for text in texts if re.match(r"-?\d", text)]


def findings(page: Page) -> list[str]:
    """What axe holds to be serious or critical."""
    results = Axe().run(page).response["violations"]
    return [
        f"{found['id']}: {node['target']} {node.get('failureSummary')}"
        for found in results
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


def overhang(page: Page) -> int:
    """By how many pixels the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


# Colours are one thing and widths another.
@pytest.mark.parametrize(
    ("scheme", "phone"), [("light", False), ("dark", True)], ids=["light-desk", "dark-phone"]
)
def test_the_page_of_the_committed_records_is_quiet_and_accessible(
    browser: Browser, committed: Path, scheme: str, phone: bool
) -> None:
    seen = load(browser, committed, scheme, phone)
    page = seen.page
    assert overhang(page) <= 0
    assert findings(page) == []
    # With everything open that can be.
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for tab in page.get_by_role("tab").all():
        tab.click()
        assert overhang(page) <= 0
    assert findings(page) == []
    page.locator("#run-list tbody a").first.click()
    page.wait_for_selector("dialog[open]")
    assert findings(page) == []
    assert seen.complaints == []
    assert seen.requests == [committed.as_uri()]
    assert committed.stat().st_size < 3e6
    assert page.evaluate("document.querySelectorAll('*').length") < 15_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_readers_own_runs_are_read_on_a_phone(
    browser: Browser, tmp_path: Path, scheme: str
) -> None:
    make_results(tmp_path)
    mine = summary("gaussian", "score", 0, 4.0, {"baselines": {"saa": 8.0}}, scale="smoke")
    add_own(tmp_path, "smoke/power/gaussian-score/seed-0", mine)
    target = tmp_path / "report.html"
    target.write_text(page_of(tmp_path), encoding="utf-8")
    seen = load(browser, target, scheme, phone=True)
    assert "runs of yours" in seen.page.locator(".facts div").first.inner_text()
    cell = seen.page.locator("table[data-name=yours] tbody td").first
    assert cell.inner_text() == "4.000"
    for one in (cell, seen.page.locator("table[data-name=main] tbody td").first):
        box = one.bounding_box()
        assert box is not None and box["x"] + box["width"] <= PHONE["width"]
    assert overhang(seen.page) <= 0
    assert findings(seen.page) == []
    assert seen.complaints == []


def test_headings_sort_by_number_up_down_and_back(browser: Browser, small: Path) -> None:
    page = load(browser, small).page
    table = page.locator("table[data-name=main]").first
    titles = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    place_of = titles.index("Task ↓") + 1
    head = table.locator(f"thead th:nth-child({place_of})")
    before = column(page, 1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    up = column(page, place_of)
    # As text 10.525 would come before 3.225.
    assert means(up) == sorted(means(up)) and max(means(up)) > 10
    known = len(means(up))
    assert all(re.match(r"\d", text) for text in up[:known])
    assert all(text in ("missing", "–") for text in up[known:]) and up[known:]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    down = column(page, place_of)
    assert means(down) == sorted(means(down), reverse=True)
    assert all(text in ("missing", "–") for text in down[known:])
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, 1) == before


def test_sorting_works_by_keyboard(browser: Browser, small: Path) -> None:
    page = load(browser, small).page
    button = page.locator("table[data-name=main] thead button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    assert (
        page.locator("table[data-name=main] thead th").nth(1).get_attribute("aria-sort")
        == "ascending"
    )
    page.keyboard.press("Space")
    assert (
        page.locator("table[data-name=main] thead th").nth(1).get_attribute("aria-sort")
        == "descending"
    )


def test_the_learning_curves_tell_values_under_the_pointer_and_by_arrow_keys(
    browser: Browser, small: Path
) -> None:
    page = load(browser, small).page
    plot = page.locator("#curve-plot")
    cursor = plot.get_by_role("slider")
    plot.scroll_into_view_if_needed()
    box = cursor.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 66, box["y"] + 100)
    assert plot.locator(".readout").inner_text() == "epoch 0"
    # exp(0) + 5 + .1 * seed over seeds 0-5: mean 6.25, standard error .1 * sqrt(3.5 / 6).
    assert "6.250 ± 0.076 (n 6)" in plot.locator(".legend").inner_text()
    page.mouse.move(box["x"] + box["width"] - 22, box["y"] + 100)
    assert plot.locator(".readout").inner_text() == "epoch 12"
    cursor.focus()
    page.keyboard.press("ArrowLeft")
    assert plot.locator(".readout").inner_text() == "epoch 11"
    assert "epoch 11: " in str(cursor.get_attribute("aria-valuetext"))
    page.keyboard.press("Home")
    assert str(cursor.get_attribute("aria-valuetext")).startswith("epoch 0: ")
    plot.get_by_text("The same as a table").click()
    expect(plot.locator("table tbody tr")).to_have_count(13)
    lines = plot.locator(".plot polyline").count()
    plot.locator(".legend input:checked").first.uncheck()
    assert plot.locator(".plot polyline").count() == lines - 1


def test_a_link_opens_a_runs_configuration_as_text_and_closing_goes_back(
    browser: Browser, small: Path
) -> None:
    seen = load(browser, small)
    page = seen.page
    page.locator("table[data-name=main] tbody a").first.click()
    expect(page.locator("#run-count")).to_contain_text("6 of")
    link = page.locator("#run-list tbody a").first
    link.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert page.url.endswith("#run/published/laptop/power/deterministic-two_stage/seed-0")
    text = dialog.inner_text()
    assert HOSTILE in text and '"python": "3.11.7"' in text
    assert "python train.py task=power" in text
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(link).to_be_focused()
    assert seen.complaints == []


def test_the_address_of_a_run_opens_it(browser: Browser, small: Path) -> None:
    page = load(browser, small, address="#run/published/laptop/power/diffusion-score/seed-4").page
    assert "Diffusion score function, seed 4" in page.locator("dialog[open] h2").inner_text()


def test_runs_are_found_by_text_and_state_and_what_is_left_out_has_its_reason(
    browser: Browser, small: Path
) -> None:
    page = load(browser, small).page
    page.locator("#run-choice [name=state]").select_option("left out")
    rows = page.locator("#run-list tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("is not JSON")
    page.locator("#run-choice [name=state]").select_option("")
    page.locator("#run-choice [name=text]").fill("diffusion seed-3")
    expect(rows).to_have_count(1)
    page.locator("#run-choice [name=text]").fill("")
    page.locator("#run-after").click()
    assert page.locator("#run-page").inner_text().startswith("page 2 of")
    # Sorted over all pages, by number.
    page.locator("#run-list thead button", has_text="Test task").click()
    page.locator("#run-list thead button", has_text="Test task").click()
    assert page.locator("#run-list tbody tr").first.locator("td").nth(4).inner_text() == "41.25"


def test_tabs_and_sections_are_reached_by_keyboard(browser: Browser, committed: Path) -> None:
    page = load(browser, committed).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    first = page.evaluate("document.activeElement.id")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "tab"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") != first
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    assert page.locator("[role=tabpanel]:visible").count() == 1
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == first
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_dark_follows_the_system_until_chosen_and_the_choice_is_remembered(
    browser: Browser, small: Path
) -> None:
    def ground(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light, dark = (load(browser, small, scheme).page for scheme in ("light", "dark"))
    assert ground(light) == "rgb(255, 255, 255)" and ground(dark) != ground(light)
    assert dark.locator("#theme").get_attribute("aria-pressed") == "true"
    light.locator("#theme").click()
    assert ground(light) == ground(dark)
    light.reload()
    assert ground(light) == ground(dark)
    assert light.locator("#theme").get_attribute("aria-pressed") == "true"


def test_all_tasks_are_printed(browser: Browser, committed: Path) -> None:
    page = load(browser, committed, "dark").page
    page.emulate_media(media="print", color_scheme="light")
    tabs = page.locator("[role=tab]").count()
    assert page.locator("[role=tabpanel]:visible").count() == tabs >= 4
    assert not page.locator("#theme").is_visible()
