"""Batches of features: sliced whole from a sparse matrix, never cell by cell."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from scipy import sparse
from torch.utils.data import DataLoader, Dataset, Sampler

from scfl_green.data.partition import Part

Batch = tuple[torch.Tensor, torch.Tensor]
# Cells sliced at once when batches are small: a few cost as much as many.
CELLS_AT_ONCE = 128


class Features(Dataset[Batch | Iterator[Batch]]):
    """Features and labels of all cells; an array of row numbers indexes one batch, a list of arrays an iterator over
    batches.

    ``values`` (CSR, cells x genes) are the features minus ``floor``, the feature of a zero count. A batch is (x, y):
    float32, cells x genes; and int64, cells.
    """

    def __init__(self, values: sparse.csr_matrix, floor: np.ndarray, labels: np.ndarray) -> None:
        self.values, self.floor, self.labels = values, floor, labels

    @property
    def n_genes(self) -> int:
        return self.values.shape[1]

    def __getitem__(self, rows: np.ndarray | list[np.ndarray]) -> Batch | Iterator[Batch]:
        return self.batches(rows) if isinstance(rows, list) else self.batch(rows)

    def batch(self, rows: np.ndarray) -> Batch:
        x = self.values[rows] + np.broadcast_to(self.floor, (len(rows), self.n_genes))
        return torch.from_numpy(np.asarray(x)), torch.from_numpy(self.labels[rows])

    def batches(self, rows: list[np.ndarray]) -> Iterator[Batch]:
        """Yield a batch for each array of row numbers."""
        step = max(1, CELLS_AT_ONCE // max([1, *map(len, rows)]))
        for start in range(0, len(rows), step):
            several = rows[start : start + step]
            sizes = [len(r) for r in several]
            x, y = self.batch(np.concatenate(several))
            yield from zip(x.split(sizes), y.split(sizes), strict=True)


class Batches(Sampler[np.ndarray | list[np.ndarray]]):
    """Sample row numbers, one batch at a time, or all batches at once if ``packed``; with a seed, shuffled each epoch
    by (seed, epoch) alone."""

    def __init__(self, rows: np.ndarray, batch_size: int, seed: list[int] | None = None, packed: bool = False) -> None:
        self.rows, self.batch_size, self.seed, self.packed = rows, batch_size, seed, packed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return 1 if self.packed else -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray | list[np.ndarray]]:
        rows = self.rows
        if self.seed is not None:
            rows = np.random.default_rng([*self.seed, self.epoch]).permutation(rows)
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        yield from [batches] if self.packed else batches


class CellDataModule(pl.LightningDataModule):
    """The batches of one part: shuffled for training (an epoch as one item if ``packed``), in order for validation
    and test. Setting ``train_batches`` replaces the training sampler."""

    def __init__(self, features: Features, part: Part, batch_size: int, seed: list[int], packed: bool = False) -> None:
        super().__init__()
        self.features, self.part, self.batch_size = features, part, batch_size
        self.train_batches: Sampler[Any] = Batches(part.train, batch_size, seed, packed)

    def _loader(self, batches: Sampler[Any]) -> DataLoader:
        # Its own generator, so that it does not advance dropout's.
        return DataLoader(self.features, sampler=batches, batch_size=None, generator=torch.Generator())

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_batches)

    def val_dataloader(self) -> DataLoader:
        return self._loader(Batches(self.part.validation, self.batch_size))

    def test_dataloader(self) -> DataLoader:
        return self._loader(Batches(self.part.test, self.batch_size))
