"""The frameworks, one per file, and what they share."""
