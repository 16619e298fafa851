"""Running: one run from its profile to its run file, inside pytest."""
