"""A federation over a network: the coordinator's server, the hospitals' sites, and their keys."""

import os

# Flower sends usage data and asks for newer versions, unless these are set before it is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
