"""Numbers of committed records are what they were published as, whatever the presets are today."""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.suite.config import compose, identities
from diffusion_dfl.suite.reporting import roles, selection
from diffusion_dfl.suite.reporting.audit import audit_tables, numbers
from diffusion_dfl.suite.reporting.checking import outdated
from diffusion_dfl.suite.reporting.claims import render
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.figures import FIGURES, FigureSource
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.layout import BEYOND, LAYOUTS
from diffusion_dfl.suite.reporting.markdown import render as markdown
from diffusion_dfl.suite.reporting.status import plan, state
from diffusion_dfl.suite.reporting.table1 import build

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "results"


@pytest.fixture
def other_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every preset has other numbers of scenarios."""
    conf = tmp_path / "conf"
    shutil.copytree(compose.CONFIG_DIRECTORY, conf)
    for preset in (conf / "preset").glob("*.yaml"):
        text = re.sub(r"(?m)^(  num_scenarios:).*", r"\1 77", preset.read_text())
        preset.write_text(f"{text}\nevaluation:\n  num_large: 444\n")
    monkeypatch.setattr(compose, "CONFIG_DIRECTORY", conf)
    forget()
    yield
    forget()


def forget() -> None:
    identities._forget()
    identities._digest.cache_clear()


@pytest.fixture
def composing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the data source of a task that has no records."""
    entries = collect(RESULTS, own=False).archive.entries
    there = {path.split("/")[1] for path in entries}

    def refused(real: Callable[..., Any]) -> Callable[..., Any]:
        def compose_one(words: Sequence[str], *more: Any) -> Any:
            assert not {f"task={task}" for task in there} & set(words), (
                "a configuration was composed"
            )
            return real(words, *more)

        return compose_one

    for module in (roles, selection):
        monkeypatch.setattr(module, "identity_of", refused(module.identity_of))
    monkeypatch.setattr(compose, "compose", refused(compose.compose))


@pytest.mark.slow
def test_no_configuration_is_composed_to_read_a_committed_number(composing_fails: None) -> None:
    found = collect(RESULTS, own=False)
    runs = frame(found)
    text = "\n".join(
        markdown(build(runs, selection.selection(runs, task, "laptop"), collection=found))
        for task in (*LAYOUTS, *BEYOND)
        if (runs["task"] == task).any()
    )
    assert text == (RESULTS / "tables" / "table1.md").read_text(encoding="utf-8")
    values = numbers(RESULTS, audit_tables(RESULTS))
    audit = render("audit", values)
    assert audit == (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    source = FigureSource(RESULTS, own=False)
    for name, figure in FIGURES.items():
        if (RESULTS / "figures" / f"{name}.png").exists():
            figure.make(source)


@pytest.mark.slow
def test_other_presets_change_what_is_stale_and_no_number(other_presets: None) -> None:
    runs = frame(collect(RESULTS, own=False))
    made = build(runs, selection.selection(runs, "synthetic", "laptop"))
    assert made.stale == 0 and len(made.estimates("method")) > 6
    committed = (RESULTS / "tables" / "table1.md").read_text(encoding="utf-8")
    row = next(line for line in markdown(made).splitlines() if line.startswith("| Gaussian TS"))
    assert row in committed
    found = collect(RESULTS, own=False)
    cell = [one for one in found.records if one.path.parts[1:3] == ("power", "gaussian-score")]
    some = type(found)(cell, [], [], RESULTS)
    assert {path.parent.name for path in outdated(some)} == {"gaussian-score"}
    (planned,) = plan(["task=power", "model=gaussian", "grad=score", "seed=3"])
    told = state(RESULTS, planned, found.archive.hashes)
    assert (told.name, told.published) == ("stale", True)
