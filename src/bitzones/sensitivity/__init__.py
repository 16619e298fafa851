"""How much each unit matters: the exact sweep, the Fisher proxy, activation statistics."""
