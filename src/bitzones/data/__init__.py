"""Tasks, text, prompts, sequences and batches."""
