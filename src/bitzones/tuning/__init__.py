"""Trains what a quantized plan stores, its integers unchanged."""
