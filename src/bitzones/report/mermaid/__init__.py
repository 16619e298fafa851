"""The two Mermaid diagrams."""
