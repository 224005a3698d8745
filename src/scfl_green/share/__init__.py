"""What a finished model is for: annotate new cells, know when not to, and share it."""
