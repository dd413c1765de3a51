"""Mirrors of what run directories hold: Weights & Biases, TensorBoard.

The files are the truth. A mirror that cannot be made or breaks is told of once and left out; it never
stops a run.
"""

from diffusion_dfl.suite.loggers.mirror import Mirror, Mirrors, RunFacts

__all__ = ["Mirror", "Mirrors", "RunFacts"]
