"""How unlike all known cell types a cell is, from sums over cells that sites can add up."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Genes in a profile: the first of the features, which are in descending order of how well they tell types apart.
GENES = 64
# Features are whole numbers in these units when they are summed, so that no sum depends on the order.
UNIT = 2.0**-12
LARGEST = 2**16
# Added to the variances, as a share of their mean, so that constant and redundant genes do no harm.
RIDGE = 1e-3


@dataclass(frozen=True)
class ProfileSums:
    """Sums over the profiles of training cells, the features of at most ``GENES`` genes; all int64.

    ``n`` counts cells by type, ``linear`` (types x genes) sums their profiles in units of 2**-12, and ``squared``
    (genes x genes) the products of two genes over all cells, in units of 2**-24. Exact, so that the sums of sites add
    up to those of the pooled cells, to the bit.
    """

    n: np.ndarray
    linear: np.ndarray
    squared: np.ndarray

    @classmethod
    def zeros(cls, n_types: int, n_genes: int) -> "ProfileSums":
        genes = min(n_genes, GENES)
        return cls(*(np.zeros(shape, np.int64) for shape in (n_types, (n_types, genes), (genes, genes))))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch in place: features (cells x genes) and cell types; cells without a type are left out."""
        known = labels >= 0
        profiles = features[known, : self.linear.shape[1]].double() / UNIT
        whole = profiles.clamp(-LARGEST, LARGEST).round().numpy()
        member = np.eye(len(self.n))[labels[known].numpy()]
        # Products of float64 are exact here: a batch of a million cells stays below 2**53.
        self.n[:] += member.sum(axis=0).astype(np.int64)
        self.linear[:] += (member.T @ whole).astype(np.int64)
        self.squared[:] += (whole.T @ whole).astype(np.int64)

    def __add__(self, other: "ProfileSums") -> "ProfileSums":
        return ProfileSums(self.n + other.n, self.linear + other.linear, self.squared + other.squared)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The means of the types that have cells, the last being that of all cells, and the factors that whiten
        deviations from a cell's type and from the mean of all cells."""
        seen, total = self.n > 0, self.n.sum()
        linear, squared = self.linear[seen] * UNIT, self.squared * UNIT**2
        means, centre = linear / self.n[seen, None], linear.sum(axis=0) / total
        within = (squared - means.T @ linear) / total
        overall = squared / total - np.outer(centre, centre)
        return np.vstack([means, centre]), _whitening(within), _whitening(overall)

    def novelty(self, features: Tensor) -> Tensor:
        """The relative Mahalanobis distance of cells (features: cells x genes -> cells, float64): the squared distance
        to the nearest type, less that to the mean of all cells; high for a cell of none of the types.

        Lee et al. 2018 (NeurIPS, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
        Attacks"), section 2.1; Ren et al. 2021 (arXiv:2106.09022), section 3. Deviation: on genes, not on a network's
        hidden units, which forget what does not tell the known types apart.
        """
        means, within, overall = (torch.from_numpy(moment) for moment in self._moments)
        x = features[:, : means.shape[1]].double()
        nearest = torch.cdist(x @ within, means[:-1] @ within).square().min(dim=1).values
        return (nearest - ((x - means[-1]) @ overall).square().sum(dim=1)).nan_to_num(nan=math.inf)

    def checked(self) -> "ProfileSums":
        """These sums; ValueError unless they can be those of cells."""
        n_types, genes = len(self.n), self.linear.shape[1]
        if self.linear.shape[0] != n_types or self.squared.shape != (genes, genes) or not 0 < genes <= GENES:
            raise ValueError("sums of profiles of other shapes")
        if (self.n < 0).any() or (self.n >= 2**30).any() or not 0 < self.n.sum() < 2**30:
            raise ValueError("sums of profiles of no cells, or of fewer")
        if (abs(self.linear) > self.n[:, None] * LARGEST).any() or (
            abs(self.squared) > self.n.sum() * LARGEST**2
        ).any():
            raise ValueError("sums of profiles that are larger than those of cells")
        if (self.squared != self.squared.T).any():
            raise ValueError("products of genes that are not symmetric")
        self._moments  # noqa: B018  # raises for variances that no cells have
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain values, which ``from_json`` reads."""
        return {name: getattr(self, name).tolist() for name in ("n", "linear", "squared")}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "ProfileSums":
        """ValueError (or KeyError, TypeError) for anything that ``to_json`` cannot have written."""
        n, linear, squared = (integers(stored[name], ndim) for name, ndim in (("n", 1), ("linear", 2), ("squared", 2)))
        return cls(n, linear, squared).checked()


def integers(values: Any, ndim: int) -> np.ndarray:
    """An array of int64 from nested lists; ValueError for other values."""
    array = np.array(values)
    if array.dtype != np.int64 or array.ndim != ndim:
        raise ValueError("values that are no whole numbers, or of another shape")
    return array


def _whitening(covariance: np.ndarray) -> np.ndarray:
    """The factor W (genes x genes) for which |x W| is the Mahalanobis length of x; ValueError for what is no
    covariance."""
    scale = max(float(covariance.trace()) / len(covariance), UNIT**2)
    values, vectors = np.linalg.eigh(covariance)
    if values.min() < -RIDGE * scale / 2:
        raise ValueError("no covariance of profiles")
    return np.asarray(vectors / np.sqrt(values + RIDGE * scale))
