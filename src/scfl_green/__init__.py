"""Single-cell classifiers, trained centrally and federatedly, ranked by accuracy per kilogram of CO2."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scfl_green.share.model import Model

__version__ = "0.1.0"


def load(model: str | os.PathLike[str], trusted: Sequence[str] = ()) -> "Model":
    """Load a finished model, to annotate cells with: ``scfl_green.load("logs/runs/NAME").annotate(adata)``.

    ``trusted``: modules whose code the model may name, beyond the allow-list. InputError if there is no such model, or
    if it is damaged.
    """
    from scfl_green.share.model import Model  # takes seconds

    return Model.load(os.fspath(model), trusted)
