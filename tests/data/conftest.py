"""Fixtures of the data tests: no setting of the developer's own may reach a test."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from diffusion_dfl.data.download import ENVIRONMENT_VARIABLE
from diffusion_dfl.data.pjm import PJM_FILES, daily_load

_REAL_ROOT = os.environ.get(ENVIRONMENT_VARIABLE, "")


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    # urllib would send loopback requests to a proxy where one is set
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="session")
def real_root() -> Path:
    if not _REAL_ROOT:
        pytest.skip(f"{ENVIRONMENT_VARIABLE} is not set: no real data to test on")
    return Path(_REAL_ROOT)


@pytest.fixture(scope="session")
def real_daily(real_root: Path) -> pd.DataFrame:
    return daily_load([real_root / name for name in PJM_FILES])
