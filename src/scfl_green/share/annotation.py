"""What is told of new cells: a table of obs, probabilities, and where they came from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scfl_green.errors import InputError
from scfl_green.share.predict import Predictions
from scfl_green.training.trained_model import TrainedModel

UNASSIGNED = "unassigned"
# Under these names, after a prefix, in obs, obsm and uns.
COLUMNS = (
    "label", "ontology_term_id", "confidence", "second_best", "margin", "set", "novelty_p", "call", "cluster_label",
    "cluster_fraction",
)  # fmt: skip
PROBABILITIES, ABOUT = "probabilities", "annotation"


@dataclass(frozen=True)
class Annotation:
    """The columns of obs, without prefix; the probabilities (cells x types, float32) of the ``types``; what is known of
    their origin (``about``); and ``notes`` to the user, a line each."""

    obs: pd.DataFrame
    probabilities: np.ndarray
    types: tuple[str, ...]
    about: dict[str, Any]
    notes: tuple[str, ...]
    prefix: str

    def columns(self) -> pd.DataFrame:
        """The columns of obs, by the names that they have there."""
        return self.obs.add_prefix(self.prefix)

    def frame(self, cells: pd.Index) -> pd.DataFrame:
        """The probabilities, by cell and type. HDF5 has no slash in names, so that T/NK is T|NK here."""
        names = [name.replace("/", "|") for name in self.types]
        if len(set(names)) < len(names):
            names = [f"{name} {number}" for number, name in enumerate(names, start=1)]
        return pd.DataFrame(self.probabilities, index=cells, columns=names)


def told(predicted: Predictions, trained: TrainedModel, alpha: float) -> pd.DataFrame:
    """The columns of obs, without prefix; of an uncalibrated model without sets and p-values.

    A cell is called unassigned if it has no counts of the model's genes, if its set is empty, or if its p-value is
    below ``alpha``.
    """
    rows, types = np.arange(len(predicted.best)), pd.Index(trained.types, dtype=object)
    obs: dict[str, Any] = {"label": pd.Categorical.from_codes(predicted.best, types)}
    if any(trained.type_ids):
        obs["ontology_term_id"] = pd.Categorical(np.array(trained.type_ids, dtype=object)[predicted.best])
    obs["confidence"] = predicted.probabilities[rows, predicted.best]
    obs["second_best"] = pd.Categorical.from_codes(predicted.second, types)
    obs["margin"] = predicted.margin
    refused = ~predicted.expressed
    if trained.calibration is not None:
        obs["set"], obs["novelty_p"] = _written(predicted.sets, types), predicted.novelty_p
        refused |= ~predicted.sets.any(axis=1) | (predicted.novelty_p < alpha)
    calls = [*types, UNASSIGNED] if UNASSIGNED not in types else [*types]
    called = np.where(refused, calls.index(UNASSIGNED), predicted.best)
    obs["call"] = pd.Categorical.from_codes(called, pd.Index(calls))
    return pd.DataFrame(obs)


def _written(packed: np.ndarray, types: pd.Index) -> Any:
    """Sets of types as text, such as ``A|B``; each different set is written once."""
    several, code = np.unique(packed, axis=0, return_inverse=True)
    members = np.unpackbits(several, axis=1, count=len(types)).astype(bool)
    return pd.Categorical.from_codes(code.ravel(), pd.Index(["|".join(types[of_set]) for of_set in members]))


def by_cluster(labels: pd.Series, clusters: pd.Series, key: str) -> pd.DataFrame:
    """The most frequent label of each cell's cluster (the first of several), and the share of its cells that have it;
    none for cells without a cluster. InputError for a column that holds no clusters."""
    if pd.api.types.is_float_dtype(clusters) and clusters.dropna().mod(1).any():
        raise InputError(
            f"clusters={key}: it holds numbers such as {clusters.dropna().iloc[0]:g}; clusters are expected"
        )
    code, names = pd.factorize(clusters.astype(object).to_numpy())
    counted = np.zeros((len(names), len(labels.cat.categories)), dtype=np.int64)
    known = code >= 0
    np.add.at(counted, (code[known], labels.cat.codes.to_numpy()[known]), 1)
    majority, fraction = counted.argmax(axis=1), counted.max(axis=1) / counted.sum(axis=1)
    return pd.DataFrame({
        "cluster_label": pd.Categorical.from_codes(np.where(known, majority[code], -1), labels.cat.categories),
        "cluster_fraction": np.where(known, fraction[code], np.nan).astype(np.float32),
    })  # fmt: skip
