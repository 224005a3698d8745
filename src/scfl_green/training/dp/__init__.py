"""Differential privacy by Opacus; no other folder imports it."""

from scfl_green.training.dp.dp_sgd import DPSGD

__all__ = ["DPSGD"]
