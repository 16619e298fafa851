"""Plans found by measuring, and measured on held-out sequences."""
