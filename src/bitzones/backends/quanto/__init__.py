"""optimum-quanto: the default backend and the reference."""
