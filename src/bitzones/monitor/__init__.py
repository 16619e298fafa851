"""A served model watched against the run that its plan comes from."""
