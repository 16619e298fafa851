"""Where models come from, how they are loaded, and what they are made of."""
