"""Quantization libraries, a folder each."""
