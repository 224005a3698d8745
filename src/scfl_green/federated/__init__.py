"""The federation: the only folder that imports Flower."""

import os

# Flower reports use to its makers unless told not to before it is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from scfl_green.federated.simulate import Federation
from scfl_green.federated.statistics import by_query

__all__ = ["Federation", "by_query"]
