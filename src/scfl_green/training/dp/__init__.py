"""Differential privacy, by Opacus: the only folder that imports it."""

from scfl_green.training.dp.dp_sgd import DPSGD

__all__ = ["DPSGD"]
