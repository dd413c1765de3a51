"""The calls between the command line and the solver in one decision-focused step, as a run makes them.

python scripts/docsite/step.py     prints them as JSON: file, function, lines of the function
"""

import json
import runpy
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]

#: The run that is looked at, small.
RUN = (
    "task=power", "data=simulated", "data.num_days=150", "model=gaussian", "grad=score",
    "scale=smoke", "foundation.epochs=1", "fit.epochs=1", "train.epochs=1", "model.width=16",
    "decision.num_scenarios=8", "evaluation.num_large=16",
)  # fmt: skip

#: The step is made below the first, and ends in the second.
_STEP, _SOLVER = "Mixed.__call__", "solve_power"


class Call(NamedTuple):
    """A function on the way."""

    file: str
    function: str
    lines: int


class _There(BaseException):
    """The solver is reached; nothing else is of interest."""


def way() -> list[Call]:
    """The functions of this project on the way, outermost first."""
    with tempfile.TemporaryDirectory() as root:
        words = [sys.executable, __file__, *RUN, f"output.root={root}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [Call(*one) for one in json.loads(done.stdout.splitlines()[-1])]


def table(calls: list[Call]) -> str:
    """A line a file, in the order of the calls."""
    lines = ["| file | functions |", "|---|---|"]
    for file, those in groupby(calls, key=lambda call: call.file):
        names = [f"`{call.function}`" for call in those if call.function != "<module>"]
        lines.append(f"| `{file}` | {', '.join(names)} |")
    return "\n".join(lines)


def _stack(frame: FrameType | None) -> list[Call]:
    found = []
    while frame is not None:
        code = frame.f_code
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT) and not path.is_relative_to(sys.prefix) and path != _HERE:
            last = max(line for _, _, line in code.co_lines() if line is not None)
            name = str(path.relative_to(ROOT))
            found.append(Call(name, code.co_qualname, last - code.co_firstlineno + 1))
        frame = frame.f_back
    return found[::-1]


_HERE = Path(__file__).resolve()


def _look(frame: FrameType, event: str, argument: Any) -> None:
    if event == "call" and frame.f_code.co_name == _SOLVER:
        calls = _stack(frame)
        if any(call.function == _STEP for call in calls):
            sys.setprofile(None)
            print(json.dumps(calls))
            raise _There


def main() -> int:
    sys.argv = ["train.py", *sys.argv[1:]]
    sys.path[0] = str(ROOT)
    sys.setprofile(_look)
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except _There:
        return 0
    finally:
        sys.setprofile(None)
    raise RuntimeError(f"a run of {' '.join(RUN)} does not come from {_STEP} to {_SOLVER}")


if __name__ == "__main__":
    sys.exit(main())
