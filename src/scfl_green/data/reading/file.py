"""What is known of a file before its counts are read: cells, types, clients and genes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from scfl_green.bounds import Count
from scfl_green.data.agreement import Told
from scfl_green.data.reading import counts
from scfl_green.data.reading.columns import first_of
from scfl_green.data.reading.counts import Kind
from scfl_green.data.reading.genes import GeneNames
from scfl_green.data.reading.labels import clean_labels, column, ontology_column, ontology_ids
from scfl_green.data.reading.matrix import shape
from scfl_green.data.reading.measured import genes_of, var_of
from scfl_green.data.reading.naming import without_name
from scfl_green.data.reading.preflight import opened, table
from scfl_green.data.reading.quality import check_sizes
from scfl_green.errors import InputError


@dataclass(frozen=True)
class Reading:
    """How files are read: the columns of ``obs`` with cell types (of several, the first there is), clients (None: one
    client) and donors (None: the clients are donors); see configs/data/h5ad.yaml for the rest."""

    label_key: str | Sequence[str]
    client_key: str | None = None
    donor_key: str | None = None
    gene_key: str | None = None
    counts: str | None = None
    preprocess: bool = True
    fractions: bool = False
    min_cells_per_type: Count | None = None
    min_gene_overlap: Annotated[float, Field(ge=0, le=1)] = 0.5
    drop_unlabelled: bool = False
    drop_types: Sequence[str] = ()
    drop_clients: Sequence[str] = ()
    keep_empty: bool = False

    @property
    def kind(self) -> Kind:
        """The values that are expected."""
        return Kind(self.preprocess, self.fractions)


@dataclass(frozen=True)
class File:
    """Metadata of a file, read before its counts; ``labels`` are cell type names, "" for a cell to leave out."""

    path: Path
    place: str
    name: str
    labels: np.ndarray
    clients: np.ndarray
    donors: np.ndarray
    cells: np.ndarray
    is_gene: np.ndarray
    genes: GeneNames
    notes: tuple[str, ...]
    type_ids: dict[str, set[str]]

    def told(self) -> Told:
        """What the file has, before it is known which of it is used."""
        return Told(self.genes, Counter(name for name in self.labels.tolist() if name), self.type_ids)

    @classmethod
    def read(cls, path: Path, reading: Reading, alone: bool) -> "File":
        with opened(path) as file:
            place = counts.find(file, reading.counts, reading.kind)
            key = first_of(file["obs"], reading.label_key)
            obs = table(file["obs"], (key, ontology_column(key), reading.client_key, reading.donor_key))
            var = var_of(file, place, reading.gene_key)
            n_cells, n_genes = shape(file[place])
            check_sizes(place, (n_cells, n_genes), len(obs), len(var))
            is_gene, others = genes_of(var)
            labels, unlabelled = clean_labels(obs, key, reading.drop_unlabelled)
            type_ids = ontology_ids(obs, key, labels)
            clients, donors = _owners(obs, None if alone else path.stem, reading)
            dropped = np.isin(clients, reading.drop_clients) | np.isin(donors, reading.drop_clients)
            labels[dropped] = ""
            owners = Counter(clients[~dropped].tolist()) | Counter(donors[~dropped].tolist())
            names = GeneNames.from_var(var[is_gene], reading.gene_key)
        cells = obs.index.astype(str).to_numpy()
        told = unlabelled, others, *without_name(owners, "clients or donors", "data.drop_clients")
        notes = tuple(f"{path.stem}: {note}" for note in told if note)
        return cls(path, place, path.stem, labels, clients, donors, cells, is_gene, names, notes, type_ids)


def _owners(obs: pd.DataFrame, site: str | None, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Each cell's client and donor; all cells are of one client, ``site``, if it is named."""
    clients = np.full(len(obs), "all" if site is None else site, dtype=object)
    if site is None and reading.client_key is not None:
        clients = column(obs, reading.client_key, "data.client_key")
        if len(kept := set(clients) - set(reading.drop_clients)) == 1:
            raise InputError(
                f"data.client_key={reading.client_key}: all cells belong to {kept.pop()!r}; name a column with "
                "several clients, or simulate clients with split=iid data.client_key=null"
            )
    if reading.donor_key is None:
        return clients, clients
    donors = column(obs, reading.donor_key, "data.donor_key")
    return clients, donors if site is None else clients + "/" + donors  # donor 1 of one site is not that of another
