"""What the file system sees of a run: files, opens, renames and fsyncs, a run and an epoch."""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from diffusion_dfl.files import write_text
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.runs.run import run as train

CELL = ("task=inventory", "model=gaussian", "scale=smoke", "fit.refit=false")
KINDS = {
    "open": "opens",
    "os.rename": "renames",
    "fsync": "fsyncs",
    "os.remove": "unlinks",
    "os.listdir": "listings",
    "os.scandir": "listings",
}
# Epochs of the two runs whose difference tells what an epoch is.
FEW, MORE = 3, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))


def run(arguments: argparse.Namespace) -> int:
    """Count a two-stage run, which makes the shared fit, and one on that fit; write files.md; 0."""
    told: dict[str, dict[int, Counter[str]]] = {"two_stage": {}, "reparam": {}}
    with tempfile.TemporaryDirectory() as folder:
        seen = _listen(str(Path(folder).resolve()))
        for epochs in (FEW, MORE):
            for grad, counts in told.items():
                before = _files(folder)
                seen.clear()
                words = (f"grad={grad}", f"fit.epochs={epochs}", f"train.epochs={epochs}")
                train(compose_config([*CELL, *words, f"output.root={folder}/{epochs}"]))
                counts[epochs] = seen + Counter({"files": _files(folder) - before})
    kinds = ["files", *dict.fromkeys(KINDS.values())]
    lines = [
        "# What the file system sees of a run",
        "",
        f"`python scripts/benchmark.py files`: `{' '.join(CELL)}`, counted at {FEW} and {MORE} epochs of "
        "every stage; files are those that stay. E is the epochs of all its stages.",
        "",
        f"| | {' | '.join(kinds)} |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    for title, grad in (("two-stage, with its fit", "two_stage"), ("on a fit there is", "reparam")):
        few, more = told[grad][FEW], told[grad][MORE]
        each = {kind: (more[kind] - few[kind]) // (MORE - FEW) for kind in kinds}
        cells = [
            f"{few[k] - FEW * each[k]}" + (f" + {each[k]} E" if each[k] else "") for k in kinds
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    write_text(arguments.output / "files.md", text)
    print(text)
    return 0


def _files(folder: str) -> int:
    return sum(path.is_file() for path in Path(folder).rglob("*"))


def _listen(root: str) -> Counter[str]:
    """Counts, from now on, of what this process does below a folder."""
    counts: Counter[str] = Counter()
    sync = os.fsync

    def heard(event: str, words: tuple[Any, ...]) -> None:
        if event in KINDS and str(words[0]).startswith(root):
            counts[KINDS[event]] += 1

    def fsync(fd: Any) -> None:
        counts[KINDS["fsync"]] += 1
        sync(fd)

    os.fsync = fsync  # Python tells no hook of it.
    sys.addaudithook(heard)
    return counts
