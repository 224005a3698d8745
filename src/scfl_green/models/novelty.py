"""How unlike all known cell types a cell is, from sums of latent profiles that sites can add up."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfl_green.models.scores import UNLABELLED

# Latent values are whole numbers in these units when they are summed, so that no sum depends on the order.
UNIT = 2.0**-12
LARGEST = 2**20
# Added to the variances, as a share of their mean, so that dead and redundant units do no harm.
RIDGE = 1e-3


@dataclass(frozen=True)
class LatentSums:
    """Sums over the latent profiles of training cells, the inputs of the network's last layer; all int64.

    ``n`` counts cells by type, ``linear`` (types x units) sums their profiles in units of 2**-12, and ``squared``
    (units x units) the products of two units over all cells, in units of 2**-24. Exact up to eight million cells, so
    that the sums of sites add up to those of the pooled cells, to the bit.
    """

    n: np.ndarray
    linear: np.ndarray
    squared: np.ndarray

    @classmethod
    def zeros(cls, n_types: int, n_units: int) -> "LatentSums":
        return cls(*(np.zeros(shape, np.int64) for shape in (n_types, (n_types, n_units), (n_units, n_units))))

    def add(self, latent: Tensor, labels: Tensor) -> None:
        """Add a batch in place: latent profiles (cells x units) and cell types; cells without one are left out."""
        known = labels != UNLABELLED
        scaled = (latent[known].double() / UNIT).nan_to_num().clamp(-LARGEST, LARGEST).round().numpy()
        member = np.eye(len(self.n))[labels[known].numpy()]
        # In float64, which holds these whole numbers exactly in blocks of up to 4,096 cells.
        for start in range(0, len(scaled), 4096):
            block, of_type = scaled[start : start + 4096], member[start : start + 4096]
            self.n[:] += of_type.sum(axis=0).astype(np.int64)
            self.linear[:] += (of_type.T @ block).astype(np.int64)
            self.squared[:] += (block.T @ block).astype(np.int64)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means of the types that have cells, and the factors that whiten deviations from a cell's type and from the
        mean of all cells."""
        seen, total = self.n > 0, self.n.sum()
        linear, squared = self.linear * UNIT, self.squared * UNIT**2
        means, centre = linear[seen] / self.n[seen, None], linear.sum(axis=0) / total
        within = (squared - means.T @ linear[seen]) / total
        overall = (squared - total * np.outer(centre, centre)) / total
        return np.vstack([means, centre]), _whitening(within), _whitening(overall)

    def novelty(self, latent: Tensor) -> Tensor:
        """The relative Mahalanobis distance of latent profiles (cells x units -> cells, float64): the squared distance
        to the nearest type, less that to the mean of all cells; high for a cell of none of the types.

        Lee et al. 2018 (NeurIPS, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
        Attacks"), section 2.1; Ren et al. 2021 (arXiv:2106.09022), section 3.
        """
        means, within, overall = (torch.from_numpy(moment) for moment in self._moments)
        x = latent.double()
        nearest = torch.cdist(x @ within, means[:-1] @ within).square().min(dim=1).values
        return (nearest - ((x - means[-1]) @ overall).square().sum(dim=1)).nan_to_num(nan=math.inf)

    def to_json(self) -> dict[str, Any]:
        return {name: value.tolist() for name, value in vars(self).items() if not name.startswith("_")}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "LatentSums":
        """ValueError for anything that ``to_json`` cannot have written."""
        return cls(*(integers(stored[name]) for name in ("n", "linear", "squared"))).checked()

    def checked(self) -> "LatentSums":
        """These sums; ValueError unless they can be those of cells."""
        n_types, n_units = len(self.n), self.linear.shape[-1]
        if (self.n.shape, self.linear.shape, self.squared.shape) != ((n_types,), (n_types, n_units), (n_units,) * 2):
            raise ValueError("sums of latent profiles of other shapes")
        if (self.n < 0).any() or not 0 < self.n.sum() < 2**40:
            raise ValueError("sums of latent profiles of no cells, or of fewer")
        if not n_units or (self.squared != self.squared.T).any():
            raise ValueError("products of latent profiles that are not symmetric")
        self._moments  # noqa: B018  # raises for variances that no cells have
        return self


def integers(values: Any) -> np.ndarray:
    """An array of int64 from nested lists; ValueError for other values."""
    array = np.array(values)
    if array.dtype != np.int64:
        raise ValueError("values that are no whole numbers")
    return array


def _whitening(covariance: np.ndarray) -> np.ndarray:
    """The factor W (units x units) for which |x W| is the Mahalanobis length of x; ValueError for what is no
    covariance."""
    scale = max(float(covariance.trace()) / len(covariance), UNIT**2)
    values, vectors = np.linalg.eigh(covariance)
    if not values.min() > -RIDGE * scale / 2:
        raise ValueError("no covariance of latent profiles")
    return np.asarray(vectors / np.sqrt(values + RIDGE * scale))
