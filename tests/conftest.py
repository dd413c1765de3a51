"""Shared by all tests."""

import gc
import os

# Before torch is imported anywhere: two workers on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()
