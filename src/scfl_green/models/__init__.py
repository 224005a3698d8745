"""The frameworks, one a file."""
