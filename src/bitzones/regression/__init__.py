"""Compares runs: deltas, trends, releases, the gate. Needs no torch."""
