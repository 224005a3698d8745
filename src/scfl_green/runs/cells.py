"""The cells of a dataset by client and cell type: printed, drawn, and without names for others to see."""

import logging
import os
import shutil
from pathlib import Path

import pandas as pd

from scfl_green.data.dataset import Dataset

LOG = logging.getLogger(__name__)
# Clients in the printed table; more would be unreadable.
MOST_CLIENTS = 40


def print_cells(dataset: Dataset) -> None:
    """Print the choices that were made in reading the cells, and the cells by client and cell type."""
    table = dataset.table()
    more = len(table) - MOST_CLIENTS
    table = table.iloc[:MOST_CLIENTS]
    table.index = [name if purpose == "client" else f"{name} ({purpose})" for name, purpose in table.index]
    # Whichever way round is shorter.
    text = min((t.to_string(line_width=80) for t in (table, table.T)), key=lambda drawn: drawn.count("\n"))
    others = [f"... and {more} more clients, which are in cells.csv"] if more > 0 else []
    LOG.info("\n".join([*dataset.notes, text, *others]))


def table_without_names(dataset: Dataset) -> pd.DataFrame:
    """The table for others to see: clients, who may be donors, by number."""
    table = dataset.table()
    clients, kept_for = (table.index.get_level_values(level) for level in (0, 1))
    return table.set_axis(pd.MultiIndex.from_arrays([pd.factorize(clients)[0] + 1, kept_for], names=table.index.names))


def draw_cells(name: str, dataset: Dataset, path: Path) -> None:
    """Draw the table, once for all runs on the dataset."""
    if not (kept := dataset.folder / path.name).exists():
        from scfl_green.runs.picture import draw  # matplotlib takes its time, and most runs find the picture drawn

        draw(name, dataset.table(), path)
        shutil.copy(path, draft := kept.with_name(f".{os.getpid()}.png"))
        draft.replace(kept)
    shutil.copy(kept, path)
