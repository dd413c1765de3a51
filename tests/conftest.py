"""Shared by all tests."""

import gc
import math
import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: two workers on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs whole commands goes first: a long test at the end leaves the other worker idle."""
    here = Path(__file__).parent
    first = (here, here / "end_to_end")
    items.sort(key=lambda item: item.path.parent not in first)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch, whatever share of the time it takes."""
    monkeypatch.setattr("diffusion_dfl.training.checkpoint._SHARE", math.inf)
