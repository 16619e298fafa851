"""Calibrated rounding: GPTQ, layer by layer."""
