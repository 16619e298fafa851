"""Latency, matrix products of units, memory."""
