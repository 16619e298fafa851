"""SVG and PNG charts."""
