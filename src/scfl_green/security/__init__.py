"""Limits what received files may run (targets) and what may leave this machine (confidential)."""
