"""Checks that files have the columns that settings name, without reading a value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scfl_green.data.reading.preflight import column_names, no_column, opened, text

# Settings that name a column, and where it may be.
PLACES = {"label_key": ("obs",), "client_key": ("obs",), "donor_key": ("obs",), "gene_key": ("var", "raw/var")}


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
                if settings[name] not in (*every, *(text(table.attrs["_index"]) for table in tables)):
                    raise no_column(f"data.{name}", settings[name], places[0], every)
