"""Decision-focused learning with diffusion models for stochastic optimisation.

The packages point one way: ``programs`` <- ``solvers`` <- ``layers`` <- ``estimators`` <-
``training``; ``predictors`` know nothing of programs, ``tasks`` tie a program to data, and
``reporting`` reads files only.
"""

__version__ = "0.1.0"
