"""What a model predicts for new cells: their features as in training, and its answers, in blocks of cells."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scfl_green.data.features.prepare import Preparation
from scfl_green.data.features.sums import depths, normalise
from scfl_green.models.base import CellClassifier
from scfl_green.share.cells import NewCells
from scfl_green.share.options import Options
from scfl_green.training.trained_model import TrainedModel

# As many cells at once as in the test of a run. However cells are read, the same cells make up each batch, because the
# last bits of a product may depend on them.
BATCH = 1024


@dataclass(frozen=True)
class Predictions:
    """By cell: the probability of each type (float32), the type of the largest logit (``best``) and the next (indices),
    how much more probable the former is (``margin``), and whether the cell has counts of any of the model's genes
    (``expressed``). Of a calibrated model also the types that it may have (``sets``, booleans packed in bits) and the
    p-value that it is like the training cells."""

    probabilities: np.ndarray
    best: np.ndarray
    second: np.ndarray
    margin: np.ndarray
    expressed: np.ndarray
    sets: np.ndarray
    novelty_p: np.ndarray

    @classmethod
    def empty(cls, n_cells: int, n_types: int) -> "Predictions":
        """Room for those of so many cells."""
        best, second = np.empty((2, n_cells), np.int32)
        margin, novelty_p = np.empty((2, n_cells), np.float32)
        sets = np.empty((n_cells, -(-n_types // 8)), np.uint8)
        probabilities = np.empty((n_cells, n_types), np.float32)
        return cls(probabilities, best, second, margin, np.empty(n_cells, bool), sets, novelty_p)

    def put(self, rows: slice, logits: Tensor, probabilities: Tensor) -> None:
        """Put what a batch says of types into its ``rows``."""
        best = logits.argmax(dim=1, keepdim=True)
        others, second = probabilities.scatter(1, best, -1.0).max(dim=1)
        self.probabilities[rows], self.best[rows], self.second[rows] = probabilities, best[:, 0], second
        self.margin[rows] = probabilities.gather(1, best)[:, 0] - others


def predict(
    network: CellClassifier,
    trained: TrainedModel,
    cells: NewCells,
    position: np.ndarray,
    options: Options,
    advance: Callable[[int], None],
) -> Predictions:
    """Predict all cells. ``position``: of each of their genes among the model's, or -1; sets are made as ``options``
    say; ``advance`` is told how many cells are done."""
    found, done = Predictions.empty(cells.n_cells, len(trained.types)), 0
    preparation, calibration = trained.preparation, trained.calibration
    # As in training, where Lightning asks for it; fp16 is for GPUs.
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=trained.precision == "bf16-mixed")
    with torch.inference_mode(), mixed:
        for batch in _batches(_features(preparation, cells.blocks(), position)):
            rows = slice(done, done := done + batch.shape[0])
            features = _dense(batch, preparation.floor)
            logits = network(features).float()
            found.expressed[rows] = np.diff(batch.indptr) > 0
            if calibration is None:
                found.put(rows, logits, logits.softmax(dim=1))
            else:
                found.put(rows, logits, probabilities := calibration.probabilities(logits))
                sets = calibration.prediction_sets(probabilities, options.coverage, options.by_type)
                found.sets[rows] = np.packbits(sets.numpy(), axis=1)
                found.novelty_p[rows] = calibration.novelty_p(features)
            advance(batch.shape[0])
    return found


def _features(
    preparation: Preparation, blocks: Iterable[sparse.csr_matrix], position: np.ndarray
) -> Iterator[sparse.csr_matrix]:
    """The features of blocks of counts: a cell's depth is that of all its genes, and a missing gene has no counts."""
    for block in blocks:
        depth = depths(block) if preparation.preprocess else None
        known = _matched(block, position, len(preparation.genes))
        yield preparation.features(normalise(known, preparation.preprocess, depth)[1])


def _matched(block: sparse.csr_matrix, position: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    """The counts of the model's genes, in its order; those of genes with the same name are added up."""
    columns = position[block.indices]
    kept = np.flatnonzero(columns >= 0)
    known = block.data[kept], columns[kept], np.searchsorted(kept, block.indptr).astype(np.int32)
    matched = sparse.csr_matrix(known, shape=(block.shape[0], n_genes))
    matched.sum_duplicates()
    return matched


def _batches(blocks: Iterable[sparse.csr_matrix]) -> Iterator[sparse.csr_matrix]:
    left: sparse.csr_matrix | None = None
    for block in blocks:
        joined = block if left is None or left.shape[0] == 0 else sparse.vstack([left, block], format="csr")
        whole = joined.shape[0] // BATCH * BATCH
        yield from (joined[start : start + BATCH] for start in range(0, whole, BATCH))
        left = joined[whole:]
    if left is not None and left.shape[0]:
        yield left


def _dense(batch: sparse.csr_matrix, floor: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(batch + np.broadcast_to(floor, batch.shape)))
