"""Sums by gene over all sites, asked for when they are needed, of no more genes than needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add

import numpy as np

from scfl_green.data.agreement import MOST_CELLS, Agreement
from scfl_green.data.features.sums import LINEAR, LOGGED, GeneSums
from scfl_green.data.questions import SUMS, Survey
from scfl_green.data.wire import Arrays, read_each


@dataclass
class AskedSums:
    """The gene sums of the sites that train, ``names``, over the genes that all agree on; ``summed`` is how they are
    added up."""

    survey: Survey
    agreement: Agreement
    names: Sequence[str]
    summed: "Summed" = field(default_factory=lambda: one_by_one)

    @property
    def n_genes(self) -> int:
        return len(self.agreement.genes)

    @cached_property
    def linear(self) -> GeneSums:
        """Sums of the normalised counts, over all cells."""
        return self._asked(LINEAR)

    @cached_property
    def logged(self) -> GeneSums:
        """Sums of log(1 + x) of the normalised counts, by cell type."""
        return self._asked(LOGGED)

    def logged_of(self, genes: np.ndarray) -> GeneSums:
        """``logged`` of some genes (positions)."""
        return self.logged.of(genes) if LOGGED in vars(self) else self._asked(LOGGED, genes)

    def _asked(self, kind: str, genes: np.ndarray | None = None) -> GeneSums:
        wanted = np.ones(self.n_genes, bool) if genes is None else np.isin(np.arange(self.n_genes), genes)
        question = {kind: np.packbits(wanted) if genes is not None else np.empty(0, np.uint8)}
        sums = self.summed(self, question, int(wanted.sum()))
        # Asked as a set, in order of position.
        return sums if genes is None else sums.of(np.argsort(np.argsort(genes)))


# The sums of all sites' answers to a question, of so many genes.
Summed = Callable[[AskedSums, Arrays, int], GeneSums]


def one_by_one(sums: AskedSums, question: Arrays, n_genes: int) -> GeneSums:
    """The answers of the sites, added up here."""
    n_groups = 1 if LINEAR in question else len(sums.agreement.types)

    def read(answer: Arrays) -> GeneSums:
        found = GeneSums.unpacked(answer, n_genes)
        if len(found.n) != n_groups or not 0 <= found.n.min() <= found.n.max() <= MOST_CELLS:
            raise ValueError("sums of other groups, or of numbers of cells that no site has")
        return found

    return reduce(add, read_each(SUMS, sums.survey.all(SUMS, question, sums.names), read).values())
