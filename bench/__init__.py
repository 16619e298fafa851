"""The cells that a profile measures, as tests: ``pytest --pyargs bitzones.bench --benchmark-json=run.json``."""
