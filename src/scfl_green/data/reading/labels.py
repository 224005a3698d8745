"""Reads and checks the names of cell types, clients and donors; merges the cell types of all files."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from scfl_green.data.reading.naming import BLANK, check_dropped, nearly_alike, without_name
from scfl_green.data.reading.preflight import no_column
from scfl_green.errors import InputError, listed

# More are clones or barcodes; scores need memory for types^2 values.
MOST_TYPES = 500
ONTOLOGY_ID = re.compile(r"CL:\d{7}")


def column(obs: pd.DataFrame, key: str, setting: str) -> np.ndarray:
    """Read a column as text; InputError if it or one of its values is missing."""
    values, missing = _values(obs, key, setting)
    if missing.any():
        raise InputError(f"{setting}={key}: {missing.sum()} of {len(obs)} cells have no value; fill or remove them")
    check_spelling(values.tolist(), setting)
    return values


def clean_labels(obs: pd.DataFrame, key: str, drop_unlabelled: bool) -> tuple[np.ndarray, str]:
    """Read cell types, "" for unlabelled cells if these are left out, and a note on how many are."""
    values, missing = _values(obs, key, "data.label_key")
    categories = getattr(obs[key].dtype, "categories", obs[key])
    if pd.api.types.is_numeric_dtype(categories):
        raise InputError(
            f"data.label_key={key}: it holds numbers ({values[0]}, ...); names of cell types are expected: choose "
            "another column, or convert it to text"
        )
    if missing.any() and not drop_unlabelled:
        raise InputError(
            f"data.label_key={key}: {missing.sum()} of {len(obs)} cells have no cell type; fill them in, or leave "
            "these cells out with data.drop_unlabelled=true"
        )
    note = f"{missing.sum()} cells without a cell type are left out" if missing.any() else ""
    return np.where(missing, "", values).astype(object), note


def one_registry(
    told: Iterable[Mapping[str, int | None]], least: int | None, drop: Iterable[str] = ()
) -> tuple[tuple[str, ...], list[str]]:
    """Merge the cell types of all sites, given each one's cells by type (None: a number that it does not tell, which
    counts as one cell), leaving out those to ``drop`` and those with fewer than ``least`` cells: sorted types, and
    notes. InputError for types to drop that nobody has."""
    counted = Counter[str]()
    for types_of_site in told:
        counted.update({name: n or 1 for name, n in types_of_site.items()})
    check_dropped(drop, counted, "data.drop_types")
    dropped = sum(counted.pop(name) for name in set(drop))
    rare = {name for name, n in counted.items() if n < (least or 1)}
    types = tuple(sorted(counted.keys() - rare))
    notes = [f"{dropped} cells of {listed(sorted(set(drop)))} are left out"] if dropped else []
    notes += [f"{len(rare)} cell types with fewer than {least} cells are left out"] if rare else []
    none = without_name({name: counted[name] for name in types}, "cell types", "data.drop_types")
    return types, [*notes, *none, *nearly_alike(types)]


def check_types(types: Sequence[str], told: Sequence[Mapping[str, int | None]]) -> None:
    """InputError if the types, of which sites have told these numbers of cells, cannot be classified."""
    if len(types) < 2:
        raise InputError(
            f"data.label_key: cell types found: {listed(types)}; a classifier needs at least two: choose another "
            "column, or lower data.min_cells_per_type"
        )
    if len(types) > MOST_TYPES:
        raise InputError(
            f"data.label_key: {len(types)} different values, such as {listed(types[:3])}; at most {MOST_TYPES} "
            "cell types are expected: choose another column, or leave rare ones out with data.min_cells_per_type"
        )
    check_spelling(types, "data.label_key")
    numbers = {name: [n for of_site in told if (n := of_site.get(name, 0)) != 0] for name in types}
    if single := [name for name, found in numbers.items() if found == [1]]:
        raise InputError(
            f"{len(single)} cell types have a single cell, such as {single[0]!r}, which cannot be both trained and "
            "tested on; leave rare types out with data.min_cells_per_type=10"
        )


def ontology_ids(obs: pd.DataFrame, key: str, labels: np.ndarray) -> dict[str, set[str]]:
    """The Cell Ontology ids by cell type, from the column that CELLxGENE's schema puts beside ``key``, if any."""
    if (beside := ontology_column(key)) not in obs:
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    for name, identity in set(zip(labels.tolist(), obs[beside].astype(object).map(str), strict=True)):
        if name and ONTOLOGY_ID.fullmatch(identity):
            found[name].add(identity)
    return found


def ontology_column(key: str) -> str:
    return f"{key}_ontology_term_id"


def one_id_each(
    types: tuple[str, ...], files: Sequence[Mapping[str, set[str]]]
) -> tuple[tuple[str | None, ...], list[str]]:
    """The Cell Ontology id of each type, None where files have none or several, and a note on the latter."""
    ids = [set().union(*(found.get(name, set()) for found in files)) for name in types]
    several = [name for name, of_type in zip(types, ids, strict=True) if len(of_type) > 1]
    notes = [f"cell types with several Cell Ontology ids, of which none is kept: {listed(several)}"] if several else []
    return tuple(min(of_type) if len(of_type) == 1 else None for of_type in ids), notes


def check_spelling(names: Iterable[str], setting: str) -> None:
    """InputError for names that differ only in spaces or case."""
    spelt = defaultdict(set)
    for name in names:
        spelt["".join(unicodedata.normalize("NFKC", name).split()).casefold()].add(name)
    if twice := [alike for alike in spelt.values() if len(alike) > 1]:
        alike = " and ".join(map(repr, sorted(twice[0])))
        raise InputError(f"{setting}: {alike} differ only in spaces or case; give them one name")


def _values(obs: pd.DataFrame, key: str, setting: str) -> tuple[np.ndarray, np.ndarray]:
    if key not in obs:
        raise no_column(setting, key, "obs", obs.attrs["all"])
    # Text is not stripped, so that 'T cell' beside 'T cell ' is noticed and refused.
    text = obs[key].astype(object)
    values = np.array([str(value) for value in text], dtype=object)
    blank = np.array([value.strip().casefold() in BLANK for value in values])
    return values, text.isna().to_numpy() | blank
