"""What a site answers before training, from its own cells alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from scfl_green.data.agreement import Agreed, Told
from scfl_green.data.features.sums import ALL_GENES, LINEAR, GeneSums
from scfl_green.data.partition import ROLES, Part
from scfl_green.data.questions import AGREE, GENES, PREPARE, SUMS, TELL, Ask
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.genes import GeneNames
from scfl_green.data.wire import Arrays, Packed, blank, packed_text

# The cells that a site contributes under an agreement, and its part of them.
Contribute = Callable[[Agreed], tuple[Cells, Part]]


class Answers(Protocol):
    """Answers questions before training."""

    def answer(self, kind: str, question: Arrays) -> Arrays: ...


@dataclass
class SiteCells:
    """The cells of a site before training: rows of a simulation's cells, or a file in a hospital.

    ``told`` is what it has, ``contribute`` gives what it trains on once all agree. Of types with fewer than ``fewest``
    cells it tells no number.
    """

    told: Told
    contribute: Contribute
    preprocess: bool = True
    fewest: int = 1
    agreed: tuple[Cells, Part] | None = field(default=None, init=False)

    def answer(self, kind: str, question: Arrays) -> Arrays:
        """The answer to a question before training (``data.agreement``)."""
        return {TELL: self.tell, GENES: self.genes, AGREE: self.agree, SUMS: self.sums, PREPARE: self.prepare}[kind](
            question
        )

    def tell(self, question: Arrays) -> Packed:
        """Cell types with their numbers, and a hash of genes."""
        return self.told.about(self.fewest)

    def genes(self, question: Arrays) -> Packed:
        """Names of genes."""
        return self.told.names()

    def agree(self, question: Arrays) -> Packed:
        """Take up what was agreed; the numbers of cells by role."""
        self.agreed = self.contribute(Agreed.unpacked(question, len(self.told.genes.names)))
        return {"cells": packed_text([len(getattr(self.agreed[1], role)) for role in ROLES])}

    def sums(self, question: Arrays) -> Packed:
        """Sums by gene over training cells, packed."""
        return self.gene_sums(question).packed()

    def gene_sums(self, question: Arrays) -> GeneSums:
        """Sums by gene over training cells: linear, of all genes, or logged by type, of some."""
        if self.agreed is None:
            raise RuntimeError("asked for sums before all agreed")
        cells, part = self.agreed
        ((kind, bits),) = question.items()
        if kind == LINEAR:
            return GeneSums.linear(cells, part.train, self.preprocess)
        n_genes = cells.counts.shape[1]
        genes = np.flatnonzero(np.unpackbits(bits, count=n_genes)) if len(bits) else ALL_GENES
        return GeneSums.logged(cells, part.train, self.preprocess, genes)

    def prepare(self, question: Arrays) -> Packed:
        """Nothing here: a simulation prepares all cells at once."""
        return {}


def in_memory(cells: Cells, parts: Mapping[str, Part], preprocess: bool) -> dict[str, SiteCells]:
    """The sites of a simulation, whose parts are rows of the same cells."""
    every = GeneNames.from_training(cells.genes, cells.symbols)
    ids = {name: {one} for name, one in zip(cells.types, cells.type_ids, strict=False) if one is not None}

    def site(part: Part) -> SiteCells:
        rows = np.concatenate([getattr(part, role) for role in ROLES])
        counts = np.bincount(cells.labels[rows][cells.labels[rows] >= 0], minlength=len(cells.types))
        types = {name: int(n) for name, n in zip(cells.types, counts, strict=True) if n}
        own = {name: found for name, found in ids.items() if name in types}
        return SiteCells(Told(cells.files.get(part.name, every), types, own), lambda _: (cells, part), preprocess)

    return {name: site(part) for name, part in parts.items()}


@dataclass(frozen=True)
class Replayed:
    """A site that answers as many bytes as one did when a dataset was prepared, which is not repeated."""

    sizes: Mapping[str, int]

    def answer(self, kind: str, question: Arrays) -> Arrays:
        return blank(self.sizes)


def directly(sites: Mapping[str, Answers]) -> Ask:
    """Ask sites in this process."""
    return lambda kind, questions: {name: sites[name].answer(kind, question) for name, question in questions.items()}
