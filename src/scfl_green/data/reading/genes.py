"""Reads gene names and matches genes across files."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scfl_green.data.reading.preflight import no_column
from scfl_green.errors import InputError, listed

# Numbers below are positions in a table; Entrez's ids of a genome's genes go beyond.
ENTREZ = 100_000
ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(\.\d+)?(_PAR_Y)?$")
# Columns of var that usually hold the gene names that are not in its index.
ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "feature_id", "ensembl")
SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol")


@dataclass(frozen=True)
class GeneNames:
    """Gene names of one file: Ensembl ids without version suffix, and symbols; None where the file has none."""

    ids: np.ndarray | None
    symbols: np.ndarray | None

    @classmethod
    def from_var(cls, var: pd.DataFrame, gene_key: str | None) -> "GeneNames":
        """Read the index of ``var`` and its usual columns, or the column ``gene_key`` alone; a name missing in a
        column is taken from the index."""
        index = _text(var.index, [f"unnamed{number}" for number in range(len(var))])
        if gene_key is not None:
            if gene_key not in var:
                raise no_column("data.gene_key", gene_key, "var", var.attrs["all"])
            if pd.api.types.is_numeric_dtype(getattr(var[gene_key].dtype, "categories", var[gene_key])):
                raise InputError(f"data.gene_key={gene_key}: it holds numbers; gene names are expected")
            return cls._from_columns([_text(var[gene_key], index)])
        columns = [_text(var[name], index) for name in (*SYMBOL_COLUMNS, *ID_COLUMNS) if name in var]
        return cls._from_columns([index, *columns])

    @classmethod
    def _from_columns(cls, columns: list[np.ndarray]) -> "GeneNames":
        """Take the first column of each kind; InputError if the first of all repeats names or mixes kinds."""
        if len(set(columns[0])) < 0.5 * len(columns[0]):
            names = list(dict.fromkeys(columns[0]))
            raise InputError(
                f"{len(columns[0])} genes have {len(names)} names, {listed(names)}; unique names are "
                "expected: set data.gene_key to a column of var that has them"
            )
        shares = [np.mean([bool(ENSEMBL.match(name)) for name in column]) for column in columns]
        if 0.05 < shares[0] < 0.95 and len(columns[0]) > 20:
            odd = next(name for name in columns[0] if not ENSEMBL.match(name))
            raise InputError(
                f"{shares[0]:.0%} of the gene names are Ensembl ids and the rest are not, such as {odd!r}; "
                "one kind is expected: set data.gene_key to a column of var that has it"
            )
        # Ids of a part of the genes would keep the others from being matched.
        ids = next((column for column, share in zip(columns, shares, strict=True) if share >= 0.95), None)
        symbols = next((column for column, share in zip(columns, shares, strict=True) if share <= 0.5), None)
        if ids is not None:
            ids = np.array([m[1] if (m := ENSEMBL.match(name)) else name for name in ids], dtype=object)
        return cls(ids, symbols)

    @classmethod
    def from_training(cls, names: np.ndarray, symbols: np.ndarray) -> "GeneNames":
        """The names that a preparation keeps: symbols repeat the names where there were none."""
        by_id = np.mean([bool(ENSEMBL.match(name)) for name in names]) >= 0.95
        return cls(names if by_id else None, None if by_id and (names == symbols).all() else symbols)

    @property
    def names(self) -> np.ndarray:
        """Ensembl ids where there are any, else symbols."""
        names = self.symbols if self.ids is None else self.ids
        assert names is not None
        return names


@dataclass(frozen=True)
class GeneSpace:
    """The genes of all files: names, symbols, and by file the position of each of its genes among them."""

    names: np.ndarray
    symbols: np.ndarray
    positions: list[np.ndarray]
    notes: tuple[str, ...]


def match(files: dict[str, GeneNames], min_overlap: float) -> GeneSpace:
    """Match the genes of all files by Ensembl id if all files have them, else by symbol.

    A single file keeps its order of genes; the union of several is sorted. Counts of duplicate genes are added up,
    and a gene that a file lacks is zero there; both are noted. InputError if the files have less than ``min_overlap``
    of the smallest one's genes in common.
    """
    columns = _matched_columns(files)
    own = {f: dict.fromkeys(column) for f, column in columns.items()}
    n_shared = _overlap(own, min_overlap)
    union = next(iter(own.values())) if len(own) == 1 else sorted(set.union(*(set(names) for names in own.values())))
    index = pd.Index(list(union), dtype=object)
    symbols = pd.Series(index, index=index, dtype=object)
    for f, names in files.items():
        if names.symbols is not None:
            known = pd.Series(names.symbols, index=columns[f])
            symbols.update(known[~known.index.duplicated()])
    positions = [index.get_indexer(pd.Index(column)) for column in columns.values()]
    return GeneSpace(index.to_numpy(), symbols.to_numpy(), positions, tuple(_notes(columns, own, n_shared, len(index))))


def check_named(names: np.ndarray) -> None:
    """InputError for genes that are numbered: in another file, a number may stand for another gene."""
    if all(name.isdecimal() for name in names) and max(map(int, names), default=0) < ENTREZ:
        raise InputError(
            f"genes are numbered ({listed(names[:3])}), not named, and cannot be matched with those of another file: "
            "set data.gene_key to a column of var that names them, also for the model, if there is one"
        )


def locate(model: GeneNames, file: GeneNames, min_overlap: float) -> np.ndarray:
    """The position of each of a file's genes among those of a model (int32), -1 for others; matched as files are.

    InputError if the file has less than ``min_overlap`` of the model's genes.
    """
    check_named(model.names)
    columns = _matched_columns({"the model": model, "the file": file})
    known = pd.Index(columns["the model"])
    place = pd.Series(np.arange(len(known)), index=known)[~known.duplicated()]  # symbols may repeat
    position = place.reindex(columns["the file"], fill_value=-1).to_numpy()
    n_found, n_genes = len(set(position) - {-1}), len(columns["the model"])
    if n_found < max(min_overlap * n_genes, 1):
        shown = "; ".join(f"{name} has {', '.join(dict.fromkeys(column[:3]))}" for name, column in columns.items())
        raise InputError(
            f"{n_found} of the model's {n_genes} genes are in the file ({shown}); at least "
            f"{max(min_overlap, 0.01):.0%} are expected: use cells of the model's species and one kind of gene names "
            "(data.gene_key), or lower data.min_gene_overlap"
        )
    return position.astype(np.int32)


def _matched_columns(files: dict[str, GeneNames]) -> dict[str, np.ndarray]:
    """The names by which each file's genes are matched: ids if all files have them, else symbols."""
    by_id = all(names.ids is not None for names in files.values())
    by_symbol = not by_id and all(names.symbols is not None for names in files.values())
    return {f: n.symbols if by_symbol and n.symbols is not None else n.names for f, n in files.items()}


def _overlap(own: dict[str, dict[str, None]], min_overlap: float) -> int:
    """The number of genes that all files share; InputError if these are too few."""
    shared = set.intersection(*(set(names) for names in own.values()))
    smallest = min(len(names) for names in own.values())
    if len(shared) < max(min_overlap * smallest, 1):
        shown = "; ".join(f"{f} has {', '.join(list(names)[:3])}" for f, names in own.items())
        raise InputError(
            f"{len(shared)} of {smallest} genes are in all files ({shown}); at least {max(min_overlap, 0.01):.0%} are "
            "expected: use files of one species and one kind of gene names (data.gene_key), or lower "
            "data.min_gene_overlap"
        )
    return len(shared)


def _notes(columns: dict[str, np.ndarray], own: dict[str, dict[str, None]], n_shared: int, n_genes: int) -> list[str]:
    """Notes on duplicate names and on the genes that files have in common."""
    notes = [
        f"{f}: {len(columns[f]) - len(names)} of {len(columns[f])} genes have a duplicate name; "
        f"their counts are added up" for f, names in own.items() if len(names) < len(columns[f])
    ]  # fmt: skip
    if len(own) > 1:
        lacking = [f"{n_genes - len(names)} are missing in {f}" for f, names in own.items() if len(names) < n_genes]
        notes.append(
            f"genes: {n_shared} of {n_genes} are in all files; " + ", ".join(lacking) + " and count as zero there"
            if lacking
            else f"genes: the same {n_genes} in all files"
        )
    return notes


def _text(column: pd.Series | pd.Index, fallback: Iterable[str]) -> np.ndarray:
    """Names as text; missing ones are replaced by those of ``fallback``."""
    missing = pd.Series(column).isna().to_numpy()
    names = [str(name).strip() for name in column]
    return np.array([f if m or not n else n for n, m, f in zip(names, missing, fallback, strict=True)], dtype=object)
