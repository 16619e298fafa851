"""Words, tables, charts and pages. Needs no torch."""
