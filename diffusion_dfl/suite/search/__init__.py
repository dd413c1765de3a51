"""Searches of hyperparameters on the days before the test: one procedure for every row of a table."""
