"""What received things may name (targets), and what may leave this machine (confidential)."""
