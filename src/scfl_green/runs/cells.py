"""The cells of a dataset by client and cell type: printed, drawn, and anonymised."""

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
    """Print the notes from reading the cells, and their numbers by client and cell type."""
    table = dataset.table()
    more = len(table) - MOST_CLIENTS
    table = table.iloc[:MOST_CLIENTS]
    table.index = [name if purpose == "client" else f"{name} ({purpose})" for name, purpose in table.index]
    # The shorter of both orientations.
    text = min((t.to_string(line_width=80) for t in (table, table.T)), key=lambda lines: lines.count("\n"))
    others = [f"... and {more} more clients in cells.csv"] if more > 0 else []
    LOG.info("\n".join([*dataset.notes, text, *others]))


def table_without_names(dataset: Dataset) -> pd.DataFrame:
    """The table for publication: clients, who may be donors, by number."""
    table = dataset.table()
    return table.rename(index=dataset.split.numbers, level="client")


def draw_cells(name: str, dataset: Dataset, path: Path) -> None:
    """Draw the table once per dataset, in its folder, and copy it to ``path``."""
    if not (picture := dataset.folder / path.name).exists():
        from scfl_green.runs.picture import draw  # matplotlib is slow to import, and most runs find the picture

        draw(name, dataset.table(), path)
        shutil.copy(path, draft := picture.with_name(f".{os.getpid()}.png"))
        draft.replace(picture)
    shutil.copy(picture, path)
