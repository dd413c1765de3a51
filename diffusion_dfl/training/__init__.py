"""Training: the loop, checkpoints, run directories, random streams."""
