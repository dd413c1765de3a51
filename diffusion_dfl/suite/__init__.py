"""The reproduction suite on top of the library: configurations, runs, sweeps, records and their tables.

The library (every other subpackage of ``diffusion_dfl``) knows nothing of it.
"""
