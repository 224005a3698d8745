"""Checks that files have the columns that settings name, without reading a value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from scfl_green.data.reading.preflight import column_names, index_name, no_column, opened

# Settings that name a column, and where it may be.
PLACES = {"label_key": ("obs",), "client_key": ("obs",), "donor_key": ("obs",), "gene_key": ("var", "raw/var")}


def first_of(table: h5py.Group, names: str | Sequence[str]) -> str:
    """The first of the names that is a column of the table, or if none is, the first of all."""
    every = [names] if isinstance(names, str) else list(names)
    return next((name for name in every if name in (*column_names(table), index_name(table))), every[0])


def check_columns(paths: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """InputError for a setting of ``data`` that names a column which a file lacks."""
    for path in paths:
        with opened(path) as file:
            for name, places in PLACES.items():
                # Each of several files is a client.
                if settings[name] is None or (name == "client_key" and len(paths) > 1):
                    continue
                tables = [file[place] for place in places if place in file]
                every = [column for table in tables for column in column_names(table)]
                wanted = [settings[name]] if isinstance(settings[name], str) else settings[name]
                if not {*wanted} & {*every, *(index_name(table) for table in tables)}:
                    raise no_column(f"data.{name}", ",".join(wanted), places[0], every)
