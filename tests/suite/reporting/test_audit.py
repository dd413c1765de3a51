"""The audit's numbers are those of records, studies and demonstrations, and of nothing else."""

import json
import re
from pathlib import Path

import pytest

from diffusion_dfl.suite.reporting.audit import audit_tables, numbers
from diffusion_dfl.suite.reporting.claims import TEMPLATES, render

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_the_committed_audit_is_what_the_committed_files_say() -> None:
    values = numbers(ROOT / "results", audit_tables(ROOT / "results"))
    text = render("audit", values)
    assert text == (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")


def test_no_result_is_typed_by_hand() -> None:
    """Beside keys the text holds settings, the paper's own numbers and references, no results."""
    text = re.sub(r"\{[^{}]*\}", "", (TEMPLATES / "audit.md").read_text(encoding="utf-8"))
    allowed = {
        "100",
        "500",
        "60.75",
        "0.13",
        "5.1",
        "95",
        "1e-6",
        "1000",
        "1024",
        "200",
        "800",
        "4000",
        "0.9",
        "185",
    }
    found = set(re.findall(r"(?<![\w.-])\d+\.\d+|\d{3,}", text))
    assert found <= allowed, found - allowed


def test_demonstrations_are_the_golden_numbers_of_the_released_protocol() -> None:
    found = json.loads((ROOT / "results/audit/demonstrations.json").read_text(encoding="utf-8"))
    assert found["synthetic_capacity"] == pytest.approx(1.98709, abs=5e-6)
    assert found["synthetic_optimum"] == pytest.approx(0.40056, abs=5e-6)
    assert found["power_ols_offsets"] == pytest.approx(3.709, abs=2e-3)
    assert found["power_bootstrap_25"] == pytest.approx(5.2, abs=0.2)
    assert found["portfolio_leak"] == pytest.approx(4.2, abs=0.2)
    assert found["portfolio_right"] == pytest.approx(0.06, abs=0.12)
