"""Decisions of a finished run for a CSV file of new contexts.

    diffusion-dfl predict RUN --columns                       names of its features
    diffusion-dfl predict RUN --template contexts.csv         a file to fill in, with the test rows
    diffusion-dfl predict RUN contexts.csv --output decisions.csv
    diffusion-dfl predict RUN contexts.csv --scenarios scenarios.csv    and what they were made from

RUN is the directory that a run prints at its end. Every row of the file gets a row of decisions with the
solver's status and a sentence; a row with a missing value is refused by number, the others are
decided. Exit code 0: all rows are decided; 1: some are not, the file says which; 2: nothing could be
decided.
"""

import argparse
import csv
import shlex
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import torch

from diffusion_dfl.data.contexts import ContextFile
from diffusion_dfl.errors import UserError
from diffusion_dfl.files import replacing
from diffusion_dfl.suite.cli import REFUSALS, explain, fail
from diffusion_dfl.suite.invocation import verb
from diffusion_dfl.suite.runs.deployed import contexts_of_test, load_run, read_config
from diffusion_dfl.training.fitted import Decisions, Fitted

# Refused rows that are told one by one.
_MOST_TOLD = 20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a finished run")
    parser.add_argument("contexts", type=Path, nargs="?", help="CSV file of contexts")
    parser.add_argument(
        "--output", type=Path, help="CSV file of decisions (default: standard output)"
    )
    parser.add_argument(
        "--batch", type=int, default=1024, help="rows read at once (1024); changes no decision"
    )
    parser.add_argument(
        "--scenarios", type=Path, metavar="FILE",
        help="CSV file of the scenarios that the decisions are made from, a row a scenario",
    )  # fmt: skip
    parser.add_argument("--ignore-extra", action="store_true", help="pass over further columns")
    parser.add_argument("--columns", action="store_true", help="print the features, one a line")
    parser.add_argument(
        "--template", type=Path, metavar="FILE", help="write the run's test contexts, from its data"
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="root=FOLDER",
        help="where the run's data is, for --template and runs that need it: root, directory, file",
    )  # fmt: skip
    parser.add_argument(
        "--trust-code", type=Path, metavar="FOLDER",
        help="run the task and the model that a run of your own code names, from this folder",
    )  # fmt: skip
    arguments, begin = parser.parse_args(), time.perf_counter()
    if arguments.batch < 1:
        parser.error(f"--batch {arguments.batch}: it must be at least 1")
    wanted = (arguments.contexts is not None, arguments.columns, arguments.template is not None)
    if sum(wanted) != 1:
        parser.error("give one of: a CSV file of contexts, --columns, --template FILE")
    if arguments.scenarios is not None and arguments.contexts is None:
        parser.error("--scenarios FILE needs a CSV file of contexts")
    try:
        places = dict(_pair(word) for word in arguments.data)
        trust: Path | None = arguments.trust_code
        if trust is not None and not trust.is_dir():
            raise UserError(f"--trust-code {trust}: there is no such folder")
        run = load_run(arguments.run, places, trust=trust)
        config = read_config(arguments.run, trust)
        torch.set_num_threads(config.threads)
        torch.set_float32_matmul_precision(config.get("matmul_precision", "highest"))
        if arguments.columns:
            print("\n".join(run.feature_names))
            return 0
        if arguments.template is not None:
            return _template(run, arguments, places)
        return _predict(run, arguments, begin)
    except REFUSALS as error:
        return fail(explain(error))


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.removeprefix("data.").partition("=")
    if not equals:
        raise UserError(f"--data {word}: not of the form root=FOLDER")
    return key, value


def _template(run: Fitted, arguments: argparse.Namespace, places: dict[str, str]) -> int:
    """A file of the test contexts."""
    path: Path = arguments.template
    rows = contexts_of_test(arguments.run, places, arguments.trust_code)
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(run.feature_names)
        writer.writerows([repr(float(value)) for value in row] for row in rows)
    print(f"{path}: {len(rows)} test rows of {len(run.feature_names)} features")
    return 0


def _predict(run: Fitted, arguments: argparse.Namespace, started: float) -> int:
    if not arguments.contexts.exists():
        words = shlex.join([str(arguments.run), "--template", str(arguments.contexts)])
        raise UserError(
            f"{arguments.contexts}: there is no such file; `{verb('predict')} {words}` writes one to fill "
            "in, with the run's test rows"
        )
    file = ContextFile(arguments.contexts, run.feature_names, arguments.ignore_extra)
    if file.extra:
        print(f"passed over: {', '.join(file.extra)}", file=sys.stderr)
    # One row beforehand: what is loaded at the first solve is no part of the rate.
    run.decide(run.predictor.contexts.mean.double().unsqueeze(0), as_judged=True)
    begin = time.perf_counter()
    wanted = arguments.scenarios is not None
    decisions = run.stream(file.batches(arguments.batch), scenarios=wanted)
    with ExitStack() as files:
        output = _opened(files, arguments.output)
        scenarios = _opened(files, arguments.scenarios)
        made, total = _write(output or sys.stdout, scenarios, run, decisions, file)
        if not total:
            raise UserError(f"{arguments.contexts}: there is no row below the header")
    seconds = time.perf_counter() - begin
    for number, reason in list(file.refusals.items())[:_MOST_TOLD]:
        print(f"row {number} refused, {reason}", file=sys.stderr)
    if file.num_refused > _MOST_TOLD:
        more = file.num_refused - _MOST_TOLD
        print(f"and {more} more rows refused; the status column has them", file=sys.stderr)
    rate = f"{made / seconds:.0f} a second" if made else "none"
    after = f"after {begin - started:.1f} s of start-up"
    print(f"{made} of {total} rows decided in {seconds:.1f} s, {rate}, {after}", file=sys.stderr)
    return 0 if made == total else 1


def _opened(files: ExitStack, path: Path | None) -> TextIO | None:
    """A file that takes its place once all is written."""
    if path is None:
        return None
    partial = files.enter_context(replacing(path))
    return files.enter_context(partial.open("w", newline="", encoding="utf-8"))


def _write(
    handle: TextIO,
    scenarios: TextIO | None,
    run: Fitted,
    decisions: Iterable[Decisions],
    file: ContextFile,
) -> tuple[int, int]:
    """A row a context; returns how many have a decision, and how many there are."""
    drawn = None if scenarios is None else csv.writer(scenarios, lineterminator="\n")
    if drawn is not None:
        names = [f"y{number}" for number in range(1, run.predictor.outcome_size + 1)]
        drawn.writerow(["row", "scenario", *names])
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(["row", *run.decision_names, "status", "sentence"])
    made = total = 0
    for part in decisions:
        if drawn is not None and part.scenarios is not None:
            for place in (~part.refused).nonzero()[0]:
                for number, values in enumerate(part.scenarios[place], start=1):
                    told = [f"{value:.9g}" for value in values]
                    drawn.writerow([total + int(place) + 1, number, *told])
        for row, (decision, good) in enumerate(zip(part.decision, part.made, strict=True)):
            total += 1
            status, sentence = part.outcome(row)
            if part.refused[row] and total in file.refusals:
                sentence = f"refused: {file.refusals[total]}"
            values = [f"{value:.9g}" for value in decision] if good else [""] * len(decision)
            writer.writerow([total, *values, status, sentence])
        made += int(part.made.sum())
    return made, total
