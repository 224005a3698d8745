"""Figures, drawn from what was counted."""

from pathlib import Path

import numpy as np
import pandas as pd


def draw_cells(name: str, table: pd.DataFrame, path: Path) -> None:
    """Cells of the dataset ``name`` by client and cell type, as a picture; the shade is the logarithm of the number."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    counts = table.to_numpy()
    figure = Figure(figsize=(2.5 + 0.55 * counts.shape[1], 1.5 + 0.32 * counts.shape[0]), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts + 1, cmap="Blues", norm=LogNorm(1, 10 * counts.max()), aspect="auto")
    for (row, column), n in np.ndenumerate(counts):
        axes.text(column, row, f"{n:,}", ha="center", va="center", fontsize=7, color="black" if n else "0.6")
    clients = [name if purpose == "client" else f"{name} ({purpose})" for name, purpose in table.index]
    axes.set_yticks(range(len(clients)), clients, fontsize=8)
    axes.set_xticks(range(counts.shape[1]), table.columns, rotation=45, ha="right", fontsize=8)
    axes.set_title(f"{name}: {counts.sum():,} cells by client and cell type", fontsize=9)
    figure.savefig(path, dpi=120)
