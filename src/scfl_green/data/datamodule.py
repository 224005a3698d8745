"""Batches of features: sliced whole from a sparse matrix, never cell by cell."""

from collections.abc import Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from scipy import sparse
from torch.utils.data import DataLoader, Dataset, Sampler

from scfl_green.data.partition import Part


class Features(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Features and labels of all cells; indexing with an array of row numbers gives one batch.

    ``values`` is cells x genes (CSR) with ``floor``, the feature of a count of zero, taken off. A batch is (x, y):
    float32, cells x genes; and int64, cells.
    """

    def __init__(self, values: sparse.csr_matrix, floor: np.ndarray, labels: np.ndarray) -> None:
        self.values, self.floor, self.labels = values, floor, labels

    @property
    def n_genes(self) -> int:
        return self.values.shape[1]

    def __getitem__(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.values[rows].toarray()
        x += self.floor
        return torch.from_numpy(x), torch.from_numpy(self.labels[rows])


class Batches(Sampler[np.ndarray]):
    """Row numbers, a batch at a time; shuffled anew each epoch by (seed, epoch) alone where a seed is given."""

    def __init__(self, rows: np.ndarray, batch_size: int, seed: list[int] | None = None) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        rows = self.rows
        if self.seed is not None:
            rows = np.random.default_rng([*self.seed, self.epoch]).permutation(rows)
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size]


class CellDataModule(pl.LightningDataModule):
    """The batches of one part: shuffled for training, in order for validation and test."""

    def __init__(self, features: Features, part: Part, batch_size: int, seed: list[int]) -> None:
        super().__init__()
        self.features, self.part, self.batch_size, self.seed = features, part, batch_size, seed

    def _loader(self, rows: np.ndarray, seed: list[int] | None = None) -> DataLoader:
        return DataLoader(self.features, sampler=Batches(rows, self.batch_size, seed), batch_size=None)

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.part.train, self.seed)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.part.validation)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.part.test)
