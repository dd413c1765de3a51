"""The one line a run ends with."""

from typing import Any

import pytest

from diffusion_dfl.reporting.console import announce


def _summary(**test: Any) -> dict[str, Any]:
    return {
        "identity": {
            "task": "power",
            "model": "gaussian",
            "grad": "score",
            "seed": 3,
            "source": "real",
            "scale": "laptop",
        },
        "test": test,
        "validation": {"task": 3.25, "first_task": 3.5},
        "timing": {"total": 12.4},
    }


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (
            {"task": 3.1, "task_exact": 3.4, "higher_is_better": False},
            "test cost 3.100, with the exact rule 3.400, 12 s",
        ),
        ({"task": 0.06, "higher_is_better": True}, "test task (higher is better) 0.060, 12 s"),
        ({"task": None, "higher_is_better": False}, "test cost not finite, 12 s"),
        ({}, "(start 3.500), 12 s"),  # tuning: the test rows were not looked at
    ],
)
def test_the_line_names_the_run_and_its_numbers(
    test: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(_summary(**test))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("power gaussian-score seed 3 (real data, scale laptop): ")
    assert "validation cost 3.250" in line
    assert line.endswith(said)
