"""A plan turned into a checkpoint of an engine."""
