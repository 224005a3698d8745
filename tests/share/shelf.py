"""Canaries that no shared file may hold, and the settings of a run on a file that holds them."""

from pathlib import Path

import numpy as np

from conftest import ROOT
from scfl_green.share.card import Terms

# Planted in: names of cells, donors, clients, a column, uns, the name and path of the data.
CANARIES = [f"cnry{word}" for word in ("CELL", "DONOR", "CLIENT", "COLUMN", "UNS", "DATA", "FILE")]
CELL, DONOR, CLIENT, COLUMN, UNS, DATA, FILE = CANARIES
QUICK = ["federation.rounds=1", "federation.local_epochs=1", "data.n_genes=50", "trainer=cpu", "logger=none"]
TERMS = Terms("MIT", "pancreas")


def overrides(planted: Path) -> list[str]:
    named = [f"data.client_key={COLUMN}", "data.donor_key=donor_id", f"data.name={DATA}"]
    return ["data=h5ad", f"data.path={planted}", *named, "federation.min_cells=0", *QUICK]


def private(run: Path) -> list[bytes]:
    """What may stand in no shared file."""
    words = [*CANARIES, "cnry", str(Path.home()), str(ROOT), str(run), str(run.parents[1])]
    rows = np.arange(20)  # the first row numbers, as JSON would list them
    return [word.encode() for word in words] + [", ".join(map(str, rows)).encode()]
