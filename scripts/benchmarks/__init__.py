"""Benchmarks of the package; run them by scripts/benchmark.py."""
