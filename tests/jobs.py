"""Small jobs on real cells, built without any configuration."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch

from scfl_green.carbon import EnergyMeter
from scfl_green.data.cells import Cells
from scfl_green.data.dataset import prepare
from scfl_green.data.partition import Split, by_client
from scfl_green.data.prepare import between_within
from scfl_green.job import Job
from scfl_green.models.actinn import ACTINN
from scfl_green.models.base import CellClassifier

ADAM = partial(torch.optim.Adam, lr=1e-3)


def split_of(cells: Cells, **changed: Any) -> Split:
    return by_client(cells, **{"test": 0.2, "validation": 0.1, "newcomers": 0, "seed": 1} | changed)


def make_job(
    cells: Cells,
    meter: EnergyMeter,
    split: Split | None = None,
    model: Callable[..., CellClassifier] = ACTINN,
    **changed: Any,
) -> Job:
    split = split or split_of(cells)
    dataset = prepare(cells, split, partial(between_within, n_genes=100), standardise=False)
    torch.manual_seed(0)
    return Job(
        **{
            "model": model(n_genes=100, n_types=len(cells.types), optimizer=ADAM),
            "features": dataset.features,
            "split": split,
            "trainer": partial(pl.Trainer, accelerator="cpu", devices=1),
            "meter": meter,
            "batch_size": 16,
            "seed": 1,
            "report": lambda *_: None,
        }
        | changed
    )
