"""summary.md, section by section."""
