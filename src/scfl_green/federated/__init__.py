"""The federation: the only folder that imports Flower."""

import os

# Flower reports use to its makers unless told not to before it is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
