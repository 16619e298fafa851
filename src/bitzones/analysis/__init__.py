"""Reads a run file and decides: zones, plan, verdicts. Needs no torch."""
