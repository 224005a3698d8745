"""The picture of a dataset: cells by client and cell type."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

# Clients in the picture; more would be unreadable.
MOST_CLIENTS = 60


@matplotlib.rc_context({"text.parse_math": False})  # names are not formulas
def draw(name: str, table: pd.DataFrame, path: Path) -> None:
    """Draw the cells of dataset ``name`` by client and cell type; shades are logarithmic."""
    n_cells, more = int(table.to_numpy().sum()), len(table) - MOST_CLIENTS
    table = table.iloc[:MOST_CLIENTS].rename(columns=lambda label: str(label)[:40])
    counts = table.to_numpy()
    figure = Figure(figsize=(2.5 + 0.55 * counts.shape[1], 1.5 + 0.32 * counts.shape[0]), layout="constrained")
    axes = figure.subplots()
    # imshow would take 50 MB for a few hundred squares.
    axes.pcolormesh(counts + 1, cmap="Blues", norm=LogNorm(1, 10 * counts.max()))
    axes.invert_yaxis()
    for (row, column), n in np.ndenumerate(counts):
        axes.text(
            column + 0.5, row + 0.5, f"{n:,}", ha="center", va="center", fontsize=7, color="black" if n else "0.6"
        )
    clients = [name[:40] if purpose == "client" else f"{name[:40]} ({purpose})" for name, purpose in table.index]
    axes.set_yticks(np.arange(len(clients)) + 0.5, clients, fontsize=8)
    axes.set_xticks(np.arange(counts.shape[1]) + 0.5, table.columns, rotation=45, ha="right", fontsize=8)
    others = f" ({more} more clients are in cells.csv)" if more > 0 else ""
    axes.set_title(f"{name}: {n_cells:,} cells by client and cell type{others}", fontsize=9)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # missing from the font
        figure.savefig(path, dpi=120)
