"""Deltas, trends and release tables as text and pages."""
