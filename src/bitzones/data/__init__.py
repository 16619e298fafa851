"""Data: what a model reads while it is measured."""
