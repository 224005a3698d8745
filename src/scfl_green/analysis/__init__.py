"""What many runs say together: collected, compared, drawn, reported."""
