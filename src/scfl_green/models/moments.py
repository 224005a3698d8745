"""A linear classifier in closed form, from sums over cells that add up over sites."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums over labelled cells, float64: their number by type (``cells``), of their features by type (``linear``, types
    x genes), and of the products of their features (``products``, genes x genes)."""

    cells: Tensor
    linear: Tensor
    products: Tensor

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]], n_types: int, n_genes: int) -> "Moments":
        """Of batches of features (cells x genes) and labels."""
        zeros = (torch.zeros(*shape, dtype=torch.float64) for shape in ((n_types,), (n_types, n_genes), (n_genes,) * 2))
        return reduce(add, (cls._of_batch(x, y, n_types) for x, y in batches), cls(*zeros))

    @classmethod
    def _of_batch(cls, x: Tensor, y: Tensor, n_types: int) -> "Moments":
        x, y = x[known := y >= 0].double(), y[known]
        linear = torch.zeros(n_types, x.shape[1], dtype=torch.float64).index_add_(0, y, x)
        return cls(torch.bincount(y, minlength=n_types).double(), linear, x.T @ x)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def half(self) -> "Moments":
        """With the lower triangle of the products alone, in rows, as float32; it is symmetric."""
        rows, columns = torch.tril_indices(*self.products.shape)
        return replace(self, products=self.products[rows, columns].float())

    def whole(self) -> "Moments":
        """Undo ``half``."""
        n = self.linear.shape[1]
        rows, columns = torch.tril_indices(n, n)
        products = torch.zeros(n, n, dtype=torch.float64)
        products[rows, columns] = products[columns, rows] = self.products.double()
        return replace(self, products=products)

    def discriminant(self, ridge: float) -> tuple[Tensor, Tensor]:
        """The weights (types x genes) and biases of linear discriminant analysis with equal priors, float64, whose
        covariance within types is regularised by ``ridge`` times its mean variance on the diagonal: logits are x C^-1 m
        - m C^-1 m / 2 for a type's mean m (Friedman 1989, "Regularized Discriminant Analysis"; Hastie et al. 2009, "The
        Elements of Statistical Learning", 4.3). Types without cells are never predicted."""
        means = self.linear / self.cells.clamp_min(1)[:, None]
        within = (self.products - self.linear.T @ means) / self.cells.sum()
        within.diagonal().add_(ridge * within.diagonal().mean())
        weights = torch.linalg.solve(within, means.T, left=True).T
        biases = -(means * weights).sum(dim=1) / 2
        return weights, biases.where(self.cells > 0, NEVER)


# The logit of a type that no cell has; finite, as weights have to be.
NEVER = -1e4
