"""The measuring side: everything that needs torch, and nothing that decides."""
