"""Experiments on the gradient estimators; run them by scripts/gradient_lab.py."""
