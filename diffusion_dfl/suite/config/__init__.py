"""Configuration: schemas, the command line's conveniences, and the identity of a run."""
