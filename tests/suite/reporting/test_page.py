"""The report page as a whole: what is in the file, what is not, and that it is always the same."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import diffusion_dfl.suite.reporting.page as package
from diffusion_dfl.suite.reporting.markdown import notes
from diffusion_dfl.suite.reporting.page.document import paragraph
from tests.suite.reporting.page.pages import (
    HOSTILE,
    SEEDS,
    add,
    add_own,
    gathered,
    make_results,
    page_of,
    place,
    with_laboratory,
)
from tests.suite.reporting.records import summary, unpublish


class Outline(HTMLParser):
    """Elements with their attributes, scripts and styles with their text, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[tuple[str, str]] = []
        self.text = ""
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            self.inline.append((self._open, data))
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    make_results(tmp_path)
    return tmp_path


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    data = json.loads(text)
    data["runs"] = [dict(zip(data["columns"], row, strict=True)) for row in data["runs"]]
    return data


def run_of(page: str, path: str) -> dict[str, Any]:
    (found,) = [run for run in data_of(page)["runs"] if run["path"] == path]
    return found


def test_nothing_in_the_page_leads_to_the_network(results: Path) -> None:
    outline = Outline(page_of(results))
    targets = [
        value
        for _, attributes in outline.elements
        for name, value in attributes.items()
        if name in ("href", "src", "srcset", "action", "data", "poster")
    ]
    assert targets
    assert all(target == "data:," or str(target).startswith("#") for target in targets)
    styles = "".join(text for tag, text in outline.inline if tag == "style")
    assert "url(" not in styles and "@import" not in styles


def test_the_policy_lets_only_the_pages_own_scripts_and_style_run(results: Path) -> None:
    page = page_of(results)
    outline = Outline(page)
    (policy,) = [
        str(one["content"])
        for one in outline.all("meta")
        if one.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    texts = re.findall(r"<script>(.*?)</script>", page, re.S)
    texts += re.findall(r"<style>(.*?)</style>", page, re.S)
    assert len(texts) == 3
    for text in texts:
        told = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{told}'" in policy
    assert not [a for _, a in outline.elements if any(n == "style" or n[:2] == "on" for n in a)]


def test_the_same_records_give_the_same_bytes(results: Path, tmp_path_factory: Any) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "results"
    shutil.copytree(results, copy, copy_function=shutil.copyfile)  # with other times
    assert page_of(results) == page_of(copy)


def test_a_deleted_record_shows_as_missing(results: Path) -> None:
    path = place("gaussian", "two_stage", 3)
    assert run_of(page_of(results), f"published/{path}")["state"] == "finished"
    unpublish(results, path)
    page = page_of(results)
    assert run_of(page, f"runs/{path}")["state"] == "missing"
    text = Outline(page).text
    assert "23 of 24 planned or started runs are finished" in text
    assert "Missing seeds, of those that other methods have: Gaussian TS 3." in text
    assert "-m seed=3" in text


def test_markup_in_records_stays_text(results: Path) -> None:
    hostile = summary("gaussian", "score", 0, 4.0, config_hash="x", differs={"a.b": HOSTILE})
    add(results, place("gaussian", "score", 0, "-0000000b"), hostile)
    foreign = summary("gaussian", "two_stage", 0, 1.0, source=HOSTILE)
    foreign["test"]["baselines"] = {HOSTILE: 1.0}
    add(results, place("gaussian", "two_stage", 0, "-0000000c"), foreign)
    failed = add_own(results, place("policy", "policy", 0), "{")
    (failed / "status.json").write_text(json.dumps({"status": "failed", "reason": HOSTILE}))
    page = page_of(results)
    outline = Outline(page)
    assert len(outline.all("script")) == 3
    assert not outline.all("img")
    assert not [a for _, a in outline.elements if "onerror" in a]
    assert HOSTILE not in page
    # Nothing is lost either.
    data = data_of(page)
    assert any(HOSTILE in text for text in data["texts"])
    assert HOSTILE in outline.text


def test_scripts_write_text_never_html() -> None:
    for path in (Path(str(package.__file__)).parent / "assets").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"):
            assert word not in text, path.name
        assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(|new Image", text), path.name


def test_folders_users_and_secrets_of_a_machine_stay_out(results: Path) -> None:
    failed = add_own(results, place("policy", "policy", 0), "{")
    reason = "FileNotFoundError: '/home/somebody/my data/load.csv'; see /srv/somebody/run/log.txt"
    (failed / "status.json").write_text(json.dumps({"status": "failed", "reason": reason}))
    page = page_of(results)
    for secret in ("somebody", "my data", "pw@", "k1", "k2", str(results)):
        assert secret not in page, secret
    configs = [text for text in data_of(page)["texts"] if "load.csv" in text]
    assert configs and "…/load.csv" in configs[0]


def test_half_written_and_foreign_records_are_named_and_counted(results: Path) -> None:
    add(results, place("policy", "policy", 0), '{"schema": 1, "iden')
    add(results, place("policy", "policy", 1), {"some": "thing"})
    infinite = json.dumps(summary("policy", "policy", 2, 1.0)).replace("0.1", "NaN")
    add(results, place("policy", "policy", 2), infinite)
    add(results, place("gaussian", "score", 9), summary("gaussian", "score", 8, 1.0))
    page = page_of(results)
    text = Outline(page).text
    assert "4 directories hold no usable record" in text
    for seed, reason in enumerate(("is not JSON", "has schema None", "holds NaN")):
        run = run_of(page, f"published/{place('policy', 'policy', seed)}")
        assert run["state"] == "left out" and reason in run["detail"]
        assert f"published/{place('policy', 'policy', seed)}" in text
    # As many as the table's own note says.
    assert "4 runs are no usable record and not counted" in text


def test_a_task_that_is_not_known_here_is_told_and_its_runs_are_listed(results: Path) -> None:
    record = summary("gaussian", "two_stage", 0, 1.0, task="mine")
    add(results, "laptop/mine/gaussian-two_stage/seed-0", record)

    page = page_of(results)
    assert "mine, scale laptop, real data: there is no task mine;" in Outline(page).text
    run = run_of(page, "published/laptop/mine/gaussian-two_stage/seed-0")
    assert run["standing"] == "" and run["value"] == 1.0


def test_every_note_of_the_markdown_table_is_on_the_page(results: Path) -> None:
    report = gathered(results)
    page = page_of(results)
    told = [note for shown in report.tables for note in notes(shown.table)]
    assert len(told) >= 3
    for note in told:
        assert str(paragraph(note)) in page


def test_every_run_leads_to_its_configuration_and_environment(results: Path) -> None:
    data = data_of(page_of(results))
    assert len(data["runs"]) == 5 * len(SEEDS)
    for run in data["runs"]:
        assert "name: power" in data["texts"][run["config"]]
        assert '"python": "3.11.7"' in data["texts"][run["environment"]]
    # Once each, however many runs have them.
    assert len({run["config"] for run in data["runs"]}) == 1


def test_an_older_preset_is_listed_as_stale_and_not_averaged(results: Path) -> None:
    old = summary("gaussian", "score", 0, 99.0, config_hash="old")
    add_own(results, place("gaussian", "score", 0), old)
    report = gathered(results)
    assert "Gaussian score function" not in report.tables[0].table.estimates("method")
    page = page_of(results)
    run = run_of(page, f"runs/{place('gaussian', 'score', 0)}")
    assert (run["state"], run["standing"]) == ("stale", "stale")


def test_lines_that_are_no_epoch_are_counted(results: Path) -> None:
    record = summary("diffusion", "score", 9, 10.6)
    path = add_own(results, place("diffusion", "score", 9), record) / "metrics.jsonl"
    with path.open("a") as handle:
        handle.write('{"stage": "train", "epo\nnull\n')
    assert gathered(results).damaged == [(f"runs/{place('diffusion', 'score', 9)}", 2)]
    assert "1 runs have lines in metrics.jsonl that are no epoch" in page_of(results)


def test_an_empty_results_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    text = Outline(page_of(tmp_path)).text
    assert "There are no records to make a table of." in text
    assert "0 of 24 planned or started runs are finished" in text


def test_the_laboratory_has_its_charts_and_a_damaged_study_is_named(results: Path) -> None:
    with_laboratory(results)
    (results / "gradient_lab" / "variance.json").write_text('{"rows": [')
    (results / "gradient_lab" / "power.json").write_text('{"rows": [{"axis": "estimator"}]}')
    (results / "gradient_lab" / "synthetic.md").unlink()
    page = page_of(results)
    assert {chart["id"] for chart in data_of(page)["charts"]} == {
        "linear-0", "linear-1", "synthetic-0", "synthetic-1",
    }  # fmt: skip
    text = Outline(page).text
    assert "gradient_lab/variance.json is damaged" in text
    assert "gradient_lab/power.json is not as" in text
    assert "gradient_lab/synthetic.md cannot be read" in text
