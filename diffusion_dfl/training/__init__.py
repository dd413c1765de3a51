"""Training: the stages and their loop, checkpoints, random streams."""
