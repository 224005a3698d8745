"""A dataset ready to train on: features, split and what was learnt of the training cells."""

from dataclasses import dataclass
from functools import reduce
from operator import add

from scfl_green.data.cells import Cells
from scfl_green.data.datamodule import Features
from scfl_green.data.partition import Split
from scfl_green.data.prepare import ChooseGenes, GeneSums, Preparation, normalise


@dataclass(frozen=True)
class Dataset:
    """Features of all cells, who owns which, the preparation that made them and the label registry."""

    features: Features
    split: Split
    preparation: Preparation
    types: tuple[str, ...]


def prepare(
    cells: Cells, split: Split, choose_genes: ChooseGenes, standardise: bool, preparation: Preparation | None = None
) -> Dataset:
    """Learn the preparation from the clients' training cells, unless an earlier run's is given; apply it."""
    normalised = normalise(cells.counts)
    if preparation is None:
        rows = [part.train for part in split.clients.values()]
        sums = reduce(add, (GeneSums.of(normalised[r], cells.labels[r], len(cells.types)) for r in rows))
        preparation = Preparation.learn(cells, sums, choose_genes, standardise)
    features = Features(preparation.apply(cells, normalised), cells.labels, preparation)
    return Dataset(features, split, preparation, cells.types)
