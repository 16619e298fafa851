"""Accuracy, likelihood, generation, KL divergence, and the replay of layers that they share."""
