"""Ways to divide a dataset's cells among clients; each returns a split."""

from collections.abc import Sequence
from typing import Annotated, Unpack

import numpy as np
import pandas as pd
from pydantic import Field

from scfl_green.bounds import Count, Seed
from scfl_green.data.held_out import HeldOut, split
from scfl_green.data.partition import Split
from scfl_green.data.reading.cells import Cells
from scfl_green.errors import InputError

MIN_CELLS = 5  # of a client
Alpha = Annotated[float, Field(ge=1e-3, le=1e6)]
RandomState = Annotated[int, Field(ge=0, lt=2**32)]


def by_client(cells: Cells, *, seed: Seed, **held_out: Unpack[HeldOut]) -> Split:
    """One client for each donor, study or site that the data names."""
    return split(cells, cells.clients, seed, held_out)


def iid(cells: Cells, *, clients: Count, seed: Seed, **held_out: Unpack[HeldOut]) -> Split:
    """Divide the shuffled cells equally among ``clients``."""
    order = np.random.default_rng((seed, 1)).permutation(len(cells))
    return split(cells, _numbered(np.array_split(order, clients), len(cells), "client-"), seed, held_out)


def dirichlet(cells: Cells, *, clients: Count, alpha: Alpha, seed: Seed, **held_out: Unpack[HeldOut]) -> Split:
    """Give each client its own mix of cell types: each type is divided in shares drawn from Dirichlet(alpha).

    Hsu et al. 2019 (arXiv:1909.06335), section 3; a smaller alpha gives a client fewer types. Redrawn until every
    client has at least ``MIN_CELLS`` cells.
    """
    if clients * MIN_CELLS > len(cells):
        raise InputError(f"split.clients={clients}: {len(cells)} cells are too few for {MIN_CELLS} each; lower it")
    rng = np.random.default_rng((seed, 1))
    for _ in range(200):
        dealt = []
        for label in np.unique(cells.labels):
            rows = rng.permutation(np.flatnonzero(cells.labels == label))
            cuts = (rng.dirichlet(np.full(clients, alpha)).cumsum()[:-1] * len(rows)).round().astype(int)
            dealt.append(np.split(rows, cuts))
        owned = [np.concatenate(shares) for shares in zip(*dealt, strict=True)]
        if min(len(rows) for rows in owned) >= MIN_CELLS:
            return split(cells, _numbered(owned, len(cells), "client-"), seed, held_out)
    raise InputError(
        f"split.alpha={alpha}: every draw left one of {clients} clients fewer than {MIN_CELLS} of {len(cells)} cells; "
        "raise split.alpha or lower split.clients"
    )


def chunks(
    cells: Cells,
    *,
    n_chunks: Count,
    size: Count | None,
    random_state: RandomState,
    seed: Seed,
    **held_out: Unpack[HeldOut],
) -> Split:
    """The published study's protocol: cells shuffled by pandas' ``sample(random_state=...)`` and cut into
    ``n_chunks``, numbered from 1, of ``size`` cells (the last takes the rest) or, without a size, equal ones."""
    if size is not None and len(cells) <= size * (n_chunks - 1):
        raise InputError(
            f"split.size={size}: {len(cells)} cells are too few for {n_chunks} chunks; lower it, or change the split"
        )
    order = pd.RangeIndex(len(cells)).to_series().sample(frac=1, random_state=random_state).to_numpy()
    cuts = n_chunks if size is None else np.arange(1, n_chunks) * size
    return split(cells, _numbered(np.array_split(order, cuts), len(cells)), seed, held_out)


# Ways that need no client that the data names.
SIMULATED = frozenset({chunks, dirichlet, iid})


def _numbered(owned: Sequence[np.ndarray], n_cells: int, prefix: str = "") -> np.ndarray:
    owner = np.empty(n_cells, dtype=object)
    for number, rows in enumerate(owned, start=1):
        owner[rows] = f"{prefix}{number:0{len(str(len(owned)))}d}"
    return owner
