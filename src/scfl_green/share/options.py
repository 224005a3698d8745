"""How cells are annotated."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scfl_green.data.reading.counts import IF_LOGGED, LOGGED
from scfl_green.energy.country import carbon_intensity
from scfl_green.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """How cells are annotated.

    ``prefix`` begins the names of all that is written. ``clusters``: a column of ``obs``, of which the majorities are
    told. ``coverage``: the share of cells whose true type should be in their set; ``by_type``: this share of each type.
    ``alpha``: below which p-value a cell is too unlike the training cells to be given a type. ``counts`` and
    ``gene_key``: where counts and gene names are, if they are not found. ``fractions``: counts need not be whole.
    ``min_gene_overlap``: the share of the model's genes that there must be. ``country``: whose electricity is used (ISO
    3166 alpha-3).
    """

    prefix: str = "scfl_"
    clusters: str | None = None
    coverage: float = 0.9
    by_type: bool = False
    alpha: float = 0.01
    counts: str | None = None
    fractions: bool = False
    gene_key: str | None = None
    min_gene_overlap: float = 0.5
    country: str = "DEU"

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise InputError(f"coverage={self.coverage:g}: a share above 0 and below 1 is expected, such as 0.9")
        if not 0 <= self.alpha < 1:
            raise InputError(f"alpha={self.alpha:g}: a p-value of at least 0 and below 1 is expected, such as 0.01")
        if not 0 <= self.min_gene_overlap <= 1:
            raise InputError(
                f"min_gene_overlap={self.min_gene_overlap:g}: a share from 0 to 1 is expected, such as 0.5"
            )
        if "/" in self.prefix:
            raise InputError(f"prefix={self.prefix}: names in an h5ad file have no slash; choose another")
        with worded():
            carbon_intensity(self.country)


@contextmanager
def worded() -> Iterator[None]:
    """Word mistakes by these options, not by the settings of training that have the same names."""
    try:
        yield
    except InputError as error:
        text, of_data = str(error), "counts|fractions|gene_key|min_gene_overlap"
        for advice in (LOGGED, IF_LOGGED):  # which is for training
            text = text.replace(advice, "")
        raise InputError(re.sub(rf"\b(data|carbon)\.(?={of_data}|country)", "", text)) from None
