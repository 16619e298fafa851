"""The showing side: an analysis in, text out. It decides nothing and imports neither torch nor anything that measures."""
