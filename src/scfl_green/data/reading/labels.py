"""Names of cell types, clients and donors: what a column must hold, and one label registry for all clients."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import pandas as pd

from scfl_green.errors import InputError, listed

# More are clones or barcodes; scores need types^2 of memory.
MOST_TYPES = 500
# What programs write where there is no value.
BLANK = ("", "nan", "none", "null", "na", "n/a", "<na>")


def column(obs: pd.DataFrame, key: str, setting: str) -> np.ndarray:
    """The column as text; InputError where it or one of its values is missing."""
    values, missing = _values(obs, key, setting)
    if missing.any():
        raise InputError(f"{setting}={key}: {missing.sum()} of {len(obs)} cells have no value; fill or remove them")
    _differ(values.tolist(), setting)
    return values


def clean_labels(obs: pd.DataFrame, key: str, drop_unlabelled: bool) -> tuple[np.ndarray, str]:
    """Names of cell types, "" for a cell without one where these are to be left out, and a note on those left out."""
    values, missing = _values(obs, key, "data.label_key")
    categories = getattr(obs[key].dtype, "categories", obs[key])
    if pd.api.types.is_numeric_dtype(categories):
        raise InputError(
            f"data.label_key={key}: it holds numbers ({values[0]}, ...); names of cell types are expected: choose "
            "another column, or turn it into text"
        )
    if missing.any() and not drop_unlabelled:
        raise InputError(
            f"data.label_key={key}: {missing.sum()} of {len(obs)} cells have no cell type; fill them in, or leave "
            "these cells out with data.drop_unlabelled=true"
        )
    notes = f"{missing.sum()} cells without a cell type are left out" if missing.any() else ""
    return np.where(missing, "", values).astype(object), notes


def one_registry(labels: list[np.ndarray], fewest: int | None) -> tuple[tuple[str, ...], list[np.ndarray], list[str]]:
    """The types of all files together, sorted, the cells (boolean) of each file that are kept, and what is to be
    notes: types with fewer than ``fewest`` cells are left out. InputError for what cannot be classified."""
    counted = Counter(name for names in labels for name in names.tolist() if name)
    rare = {name for name, n in counted.items() if n < (fewest or 1)}
    types = tuple(sorted(counted.keys() - rare))
    if len(types) < 2:
        raise InputError(
            f"data.label_key: one cell type, {', '.join(types) or 'or none'}; a classifier needs at least two: choose "
            "another column, or lower data.min_cells_per_type"
        )
    if len(types) > MOST_TYPES:
        raise InputError(
            f"data.label_key: {len(types)} different values, {listed(types[:3])} among them; at most {MOST_TYPES} "
            "cell types are expected: choose another column, or leave rare ones out with data.min_cells_per_type"
        )
    _differ(types, "data.label_key")
    if single := [name for name in types if counted[name] == 1]:
        raise InputError(
            f"{len(single)} cell types have a single cell, {single[0]!r} among them, which cannot be trained and "
            "tested on; leave rare types out with data.min_cells_per_type=10"
        )
    notes = [f"{len(rare)} cell types with fewer than {fewest} cells are left out"] if rare else []
    return types, [np.isin(names, types) for names in labels], notes


def _differ(names: Iterable[str], setting: str) -> None:
    """InputError for names that nobody would tell apart."""
    spelt = defaultdict(set)
    for name in names:
        spelt["".join(unicodedata.normalize("NFKC", name).split()).casefold()].add(name)
    if twice := [alike for alike in spelt.values() if len(alike) > 1]:
        alike = " and ".join(map(repr, sorted(twice[0])))
        raise InputError(f"{setting}: {alike} differ only in spaces or case; give them one name")


def _values(obs: pd.DataFrame, key: str, setting: str) -> tuple[np.ndarray, np.ndarray]:
    if key not in obs:
        raise InputError(f"{setting}={key}: no such column in obs; there are {listed(obs.attrs['all'])}")
    # Text is compared as it stands, so that 'T cell' and 'T cell ' are told apart, and refused.
    text = obs[key].astype(object)
    values = np.array([str(value) for value in text], dtype=object)
    blank = np.array([value.strip().casefold() in BLANK for value in values])
    return values, text.isna().to_numpy() | blank
