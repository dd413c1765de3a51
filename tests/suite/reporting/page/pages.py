"""A results folder of records that never were, and the page of it."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusion_dfl.suite.reporting.archive import Content, Entry
from diffusion_dfl.suite.reporting.page.gather import Report, gather
from diffusion_dfl.suite.reporting.page.render import render
from diffusion_dfl.suite.reporting.publishing import content_of
from diffusion_dfl.suite.reporting.status import Planned
from tests.suite.reporting.records import TWIN, entry_of, put, summary, write

ROOT = Path(__file__).resolve().parents[4]
SEEDS = range(6)

#: Markup that must stay text.
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"

#: Test task of the cells at seed 0; as texts 10.5 would come before 3.2.
CELLS: Mapping[tuple[str, str], float] = {
    ("deterministic", "two_stage"): 41.2,
    ("gaussian", "two_stage"): 5.5,
    ("gaussian", "reparam"): 3.2,
    ("diffusion", "score"): 10.5,
}


def place(model: str, grad: str, seed: int, suffix: str = "") -> str:
    """Directory of a run below published/ or runs/."""
    return f"laptop/power/{model}-{grad}{suffix}/seed-{seed}"


def make_results(root: Path) -> None:
    """Six seeds of four cells and of a twin, with curves, configuration and environment."""
    runs: dict[Entry, Content] = {}
    for (model, grad), value in CELLS.items():
        for seed in SEEDS:
            record = summary(model, grad, seed, value + 0.01 * seed, {"baselines": {"saa": 8.0}})
            record["timing"] = {"total": 60.0 + seed}
            runs |= made(root, place(model, grad, seed), record)
    for seed in SEEDS:
        record = summary("gaussian", "reparam", seed, 5.4, config_hash="t", differs=TWIN)
        runs |= made(root, place("gaussian", "reparam", seed, "-0000000a"), record)
    put(root, runs)


def add(root: Path, name: str, record: Any) -> None:
    """A published run."""
    put(root, made(root, name, record))


def made(root: Path, name: str, record: Any) -> dict[Entry, Content]:
    """What is published of a run with all its files."""
    directory = add_own(root / "made", name, record)
    content = replace(content_of(directory), summary=(directory / "summary.json").read_text())
    shutil.rmtree(root / "made")
    return {entry_of(name, record): content}


def add_own(root: Path, name: str, record: Any) -> Path:
    """A run of the user's own with all its files; its directory."""
    write(root / "runs", name, record)
    directory = root / "runs" / name
    seed = int(directory.name.removeprefix("seed-"))
    (directory / "config.yaml").write_text(
        f"seed: {seed}\nscale: laptop\ntask:\n  name: power\n  note: '{HOSTILE}'\n"
        "data:\n  file: /home/somebody/private/load.csv\n  url: https://u:pw@host.org/a?key=k1\n"
        "  api_key: k2\n"
    )
    (directory / "env.json").write_text(
        json.dumps({"python": "3.11.7", "device": "cpu", "cwd": "/home/somebody/work"})
    )
    epochs = [
        {"stage": "train", "epoch": e, "validation_score": 5 + math.exp(-e / 4) + 0.1 * seed}
        for e in range(13)
    ]
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(e)}\n" for e in epochs))
    return directory


def planned() -> list[Planned]:
    """The runs of `CELLS`."""
    return [
        Planned((f"model={model}", f"grad={grad}"), seed, Path(place(model, grad, seed)), "h")
        for model, grad in CELLS
        for seed in SEEDS
    ]


def gathered(root: Path) -> Report:
    return gather(root, ROOT / "docs" / "audit.md", planned())


def page_of(root: Path) -> str:
    return render(gathered(root))


def with_laboratory(root: Path) -> None:
    """The committed studies beside the records."""
    shutil.copytree(ROOT / "results" / "gradient_lab", root / "gradient_lab")
