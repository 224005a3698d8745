"""A dataset ready to train on: features, split and what was learnt of the training cells."""

from dataclasses import dataclass
from functools import reduce
from operator import add

from scfl_green.data.cells import Cells
from scfl_green.data.datamodule import Features
from scfl_green.data.partition import Split
from scfl_green.data.prepare import GeneSums, Preparation, normalise


@dataclass(frozen=True)
class Dataset:
    """Features of all cells, who owns which, the preparation that made them and the label registry."""

    features: Features
    split: Split
    preparation: Preparation
    types: tuple[str, ...]


def prepare(cells: Cells, split: Split, n_genes: int, preparation: Preparation | None = None) -> Dataset:
    """Learn the preparation from the clients' training cells, unless an earlier run's is given; apply it."""
    normalised = normalise(cells.counts)
    if preparation is None:
        sums = reduce(add, (GeneSums.of(normalised[part.train]) for part in split.clients.values()))
        preparation = Preparation.learn(cells, sums, n_genes)
    features = Features(preparation.apply(cells, normalised), cells.labels, preparation)
    return Dataset(features, split, preparation, cells.types)
