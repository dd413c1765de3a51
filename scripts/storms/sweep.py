"""A sweep of small runs: done whole once, broken somewhere else, and held against each other."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import compose_config, identify
from diffusion_dfl.suite.runs.lease import Lease
from diffusion_dfl.suite.runs.run import run

SMALL = (
    "data=simulated",
    "data.num_days=150",
    "scale=smoke",
    "model.width=8",
    "foundation.epochs=2",
    "fit.epochs=3",
    "fit.validate_every=1",
    "train.epochs=3",
    "decision.num_scenarios=5",
    "evaluation.num_large=10",
    "device=cpu",
)
MODELS, GRADS = ("diffusion", "gaussian"), ("score", "reparam", "two_stage")


class Sweep:
    """Runs, their unbroken records, and a folder in which they are broken.

    Args:
        folder: for the unbroken and the broken runs.
        seeds: how many; of each a run of every model and grad.
        seed: of what breaks when.
    """

    def __init__(self, folder: Path, seeds: int, seed: int) -> None:
        self.unbroken = folder / "unbroken"
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.seeds = seeds
        self.words = [
            (f"model={model}", f"grad={grad}", f"seed={number}")
            for number in range(seeds)
            for model, grad in product(MODELS, GRADS)
        ]
        self.paths = [identify(self.config(self.unbroken, words)).path for words in self.words]

    def config(self, root: Path, words: Sequence[str]) -> Any:
        return compose_config([*SMALL, *words, f"output.root={root}"])

    def whole(self) -> None:
        """Every run once, with nothing in its way; also loads everything that forks will need."""
        start = time.perf_counter()
        for words in self.words:
            run(self.config(self.unbroken, words))
        seconds = time.perf_counter() - start
        print(f"{len(self.words)} runs unbroken in {seconds:.0f} s", flush=True)
        self.anew("broken")

    def anew(self, name: str) -> None:
        """Begin to break it in a folder of this name."""
        self.broken = self.unbroken.with_name(name)
        self.broken.mkdir(mode=0o777)
        os.chmod(self.broken, 0o777)
        self.configs = [self.config(self.broken, words) for words in self.words]
        self.counts.clear()

    def damage(self) -> None:
        """Damage one file of a run that no worker is in, as a bad disk would."""
        folder = self.broken / "runs" / self.random.choice(self.paths)
        names = (
            "status.json",
            "summary.json",
            "metrics.jsonl",
            "rows.csv",
            "weights.pt",
            "env.json",
        )
        there = [folder / name for name in names if (folder / name).exists()]
        generations = [folder / "checkpoint.pt", folder / "checkpoint.previous.pt"]
        if all(path.exists() for path in generations):
            there.append(self.random.choice(generations))
        if not there:
            return
        path = self.random.choice(there)
        try:
            with Lease(folder):
                content = path.read_bytes()
                at = self.random.randrange(len(content) + 1)
                kind = self.random.choice(["cut", "flip", "empty"])
                if kind == "flip" and content:
                    changed = bytearray(content)
                    changed[at % len(content)] ^= 1 << self.random.randrange(8)
                    content = bytes(changed)
                path.write_bytes(
                    b"" if kind == "empty" else content[:at] if kind == "cut" else content
                )
                self.counts[f"damaged: {path.name}"] += 1
        except UserError:
            return

    def forget(self) -> None:
        """Start a run over."""
        folder = self.broken / "runs" / self.random.choice(self.paths)
        try:
            with Lease(folder):
                for item in folder.iterdir():
                    if not item.name.startswith("."):
                        item.unlink()
        except UserError:
            return
        self.counts["started over"] += 1

    def finished(self) -> bool:
        """Whether all runs are."""
        return all(_status(self.broken / "runs" / path) == "finished" for path in self.paths)

    def report(self, kills: int) -> int:
        """Compare, print what happened, and return the exit code."""
        wrong: list[str] = []
        for config, path in zip(self.configs, self.paths, strict=True):
            folder = self.broken / "runs" / path
            if _status(folder) != "finished":
                wrong.append(f"{path}: {_status(folder)}")
                continue
            run(config)  # Files damaged after the end are made good here.
            for name in ("summary.json", "metrics.jsonl", "rows.csv"):
                ours, theirs = folder / name, self.unbroken / "runs" / path / name
                if ours.exists() != theirs.exists() or (
                    theirs.exists() and _numbers(ours) != _numbers(theirs)
                ):
                    wrong.append(f"{path}: {name} is not that of the unbroken run")
            leftover = {item.name for item in folder.iterdir() if item.name.startswith(".")}
            if leftover - {".lock"}:
                wrong.append(f"{path}: left behind {', '.join(leftover)}")
        for name, count in sorted(self.counts.items()):
            print(f"{count:5d} {name}")
        for line in wrong:
            print(f"wrong: {line}")
        verdict = "as unbroken" if not wrong else f"{len(wrong)} things wrong"
        print(f"{len(self.paths)} runs after {kills} kills: {verdict}", flush=True)
        return 1 if wrong else 0


def _status(folder: Path) -> str:
    try:
        return str(json.loads((folder / "status.json").read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _numbers(path: Path) -> Any:
    """What must be equal: all of a file, but a record's times, sizes and versions of the source."""
    text = path.read_text(encoding="utf-8")
    if path.name != "summary.json":
        return text
    return {
        key: value
        for key, value in json.loads(text).items()
        if key not in ("timing", "resources", "sources")
    }
