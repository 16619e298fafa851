"""Generators of the two task sets that ship with bitzones; `make_tasks.py` writes them, `train_tiny.py` trains on them."""
