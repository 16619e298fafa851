"""The deciding side: reads the run file and decides. It imports neither torch nor anything that measures."""
