"""Integers with an integer zero point: the formats that AutoRound, GPTQ and compressed-tensors checkpoints all hold exactly."""
