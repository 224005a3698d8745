"""The cells of a dataset by client and cell type: printed, drawn, and anonymised."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from scfl_green.data.dataset import Dataset
from scfl_green.terminal import drawn, room, shortened, terminal_width

LOG = logging.getLogger(__name__)
# Rows in the printed table; more would be unreadable.
MOST_ROWS = 40
# Letters of a column's name that tell what it is.
FEWEST_LETTERS = 8


def print_cells(dataset: Dataset) -> None:
    """Print the notes from reading the cells, and their numbers by client and cell type."""
    table = dataset.table()
    table.index = [name if purpose == "client" else f"{name} ({purpose})" for name, purpose in table.index]
    LOG.info("\n".join([*dataset.notes, cells_text(table)]))


def cells_text(table: pd.DataFrame) -> str:
    """Numbers of cells by client (rows) and cell type, as text no wider than the terminal: turned if that makes it fit,
    or shorter; without the smallest clients or cell types if it does not fit either way."""
    named = table.rename_axis(index="clients", columns="cell types")
    sides = [(side, _fitting(side)) for side in (named, named.T)]
    whole = [(side, heads) for side, heads in sides if len(heads) == side.shape[1]]
    most = max(sides, key=lambda one: min(len(one[0]), MOST_ROWS) * len(one[1]))
    side, heads = min(whole, key=lambda one: len(one[0]), default=most)
    columns = side.iloc[:MOST_ROWS, [*heads]]
    left_out = {side.index.name: len(side) - len(columns), side.columns.name: side.shape[1] - len(heads)}
    if left_out[side.columns.name]:
        columns, heads = columns.assign(all=side.sum(axis=1)), heads | {-1: "all"}
    rows = [[name, *map(_number, numbers)] for name, *numbers in columns.itertuples(name=None)]
    lines = [drawn(["", *heads.values()], rows)]
    if more := [f"{n:,} more {what}" for what, n in left_out.items() if n]:
        lines.append(f"... and {' and '.join(more)} in cells.csv")
    return "\n".join(lines)


def _number(n: float) -> str:
    """A number of cells; few enough not to be told, if it is missing."""
    return "rare" if np.isnan(n) else f"{int(n):,}"


def _fitting(side: pd.DataFrame) -> dict[int, str]:
    """The columns that fit the terminal, by position, with names shortened to differ: all, or else the largest, with
    room for a column of totals."""
    width = terminal_width()
    names, order = [str(name) for name in side], np.argsort(-side.sum().to_numpy(), kind="stable")
    label = min(max(len(name) for name in side.index), width // 3)
    letters = max(min(FEWEST_LETTERS, max(map(len, names))), len(f"{side.to_numpy().sum(axis=1).max():,}"))
    for n in range(len(names), 0, -1):
        each = room(label, n + (n < len(names)), width)
        heads = {place: shortened(names[place], each) for place in sorted(order[:n].tolist())}
        if each >= letters and len(set(heads.values())) == n:
            return heads
    return {}


def table_without_names(dataset: Dataset) -> pd.DataFrame:
    """The table for publication: clients, who may be donors, by number."""
    table = dataset.table()
    return table.rename(index=dataset.split.numbers, level="client")


def draw_cells(name: str, dataset: Dataset, path: Path) -> None:
    """Draw the table once per dataset, in its folder, if it has one, and copy it to ``path``."""
    if dataset.folder is None:
        from scfl_green.runs.picture import draw

        draw(name, dataset.table().fillna(0), path)
        return
    if not (picture := dataset.folder / path.name).exists():
        from scfl_green.runs.picture import draw  # matplotlib is slow to import, and most runs find the picture

        draw(name, dataset.table(), path)
        shutil.copy(path, draft := picture.with_name(f".{os.getpid()}.png"))
        draft.replace(picture)
    shutil.copy(picture, path)
