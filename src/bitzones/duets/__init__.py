"""Two live environments that measure in turn, and the driver that asks them."""
