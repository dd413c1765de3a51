"""Shared by all tests."""

import os

# Before torch is imported anywhere: two workers on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
