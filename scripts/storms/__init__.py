"""Drivers that break a sweep, for scripts/chaos.py."""
