"""A run in its directory: from a configuration to a record, and back to its trained predictor."""
