"""Cells as an earlier model knows them: by its names of genes and its cell types."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.genes import GeneNames, locate
from scfl_green.data.reading.labels import check_spelling
from scfl_green.data.reading.matrix import BLOCK
from scfl_green.data.reading.rows import StoredRows, in_columns
from scfl_green.errors import InputError, listed


def with_genes(cells: Cells, names: np.ndarray, symbols: np.ndarray, min_overlap: float) -> Cells:
    """The same cells, in which a model's genes (``names`` and ``symbols`` of its inputs) have the model's names.

    Genes are matched as those of files are, by Ensembl id or symbol. Those that the cells lack have no counts, which is
    noted; all others are kept, since a cell's depth counts them. InputError if the cells have less than ``min_overlap``
    of the model's genes.
    """
    if set(names) <= set(cells.genes):
        return cells
    model, own = (GeneNames.from_training(*pair) for pair in ((names, symbols), (cells.genes, cells.symbols)))
    position = locate(model, own, min_overlap)
    others, n_genes = position < 0, len(names) + int((position < 0).sum())
    column = np.where(others, len(names) + others.cumsum() - 1, position)
    blocks = (cells.counts[start : start + BLOCK] for start in range(0, len(cells), BLOCK))
    counts = StoredRows((in_columns(block, column, n_genes) for block in blocks), n_genes)
    lacking = names[~np.isin(np.arange(len(names)), position)]
    note = f"genes: {len(names) - len(lacking)} of the model's {len(names)} are in the file"
    if len(lacking):
        note += f"; the others count as zero: {listed(lacking)}"
    genes, labels = (np.concatenate([of_model, of_file[others]]) for of_model, of_file in (
        (names, cells.genes), (symbols, cells.symbols)
    ))  # fmt: skip
    return replace(cells, counts=counts, genes=genes, symbols=labels, notes=(*cells.notes, note))


def with_types(cells: Cells, types: tuple[str, ...], ids: Iterable[str | None] = (), *, grows: bool = False) -> Cells:
    """The same cells, labelled by a model's cell types and their Cell Ontology ids. Types that the model lacks come
    last where it ``grows``, which is noted; else they are an InputError."""
    new = sorted(set(cells.types) - set(types))
    if new:
        check_spelling((*types, *new), "data.label_key")
    if new and not grows:
        raise InputError(
            f"weights: not trained on cell type {listed(new)}; remove these cells, or let the model learn their types "
            "with finetuning.new_types=true"
        )
    every = (*types, *new)
    position = np.array([every.index(name) for name in cells.types], dtype=np.int64)
    own, earlier = dict(zip(cells.types, cells.type_ids, strict=True)), dict(zip(types, ids, strict=False))
    type_ids = tuple(earlier.get(name) or own.get(name) for name in every)
    notes = [f"cell types that are new to the model, which learns them: {listed(new)}"] if new else []
    labels, notes = np.where(cells.labels < 0, cells.labels, position[cells.labels.clip(0)]), [*cells.notes, *notes]
    broad = tuple(tuple(position[list(types)].tolist()) for types in cells.broad)
    return replace(cells, labels=labels, types=every, type_ids=type_ids, broad=broad, notes=tuple(notes))
