"""Differential privacy: the only folder that imports Opacus."""
