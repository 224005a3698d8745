"""Federated learning by Flower; no other folder imports it."""

import os

# Flower sends usage data to its authors, unless this is set before it is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from scfl_green.federated.carbon_aware import CarbonAware
from scfl_green.federated.codec import Half, Largest, Rows
from scfl_green.federated.federation import Federation
from scfl_green.federated.network import Simulated
from scfl_green.federated.oneshot import OneShot

__all__ = ["CarbonAware", "Federation", "Half", "Largest", "OneShot", "Rows", "Simulated"]
