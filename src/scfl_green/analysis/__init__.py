"""Analyses of many runs: collect, compare, draw, report."""
