"""Small jobs on real cells, built without any configuration."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from flwr.serverapp.strategy import FedAvg, Strategy

from scfl_green.data.dataset import Dataset, prepare
from scfl_green.data.features.prepare import ChooseGenes, between_within
from scfl_green.data.partition import Split, by_client
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.simulate import simulate
from scfl_green.models.actinn import ACTINN
from scfl_green.models.base import CellClassifier
from scfl_green.training.job import Job, Weights

ADAM = partial(torch.optim.Adam, lr=1e-3)


ONE = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
SPLIT = {"test": "cells", "test_share": 0.2, "validation": 0.1, "newcomers": 0, "seed": 1}


def split_of(cells: Cells, **changed: Any) -> Split:
    return by_client(cells, **SPLIT | changed)


def prepared(cells: Cells, split: Split, choose_genes: ChooseGenes, standardise: bool = False, **more: Any) -> Dataset:
    """Prepared in a folder of its own."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["SCFL_CACHE"])) / "prepared"
    return prepare(cells, split, choose_genes, folder, standardise=standardise, **more)


def make_job(
    cells: Cells,
    meter: EnergyMeter,
    split: Split | None = None,
    model: Callable[..., CellClassifier] = ACTINN,
    **changed: Any,
) -> Job:
    split = split or split_of(cells)
    dataset = prepared(cells, split, partial(between_within, n_genes=100))
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


def federate(job: Job, strategy: Strategy | None = None, rounds: int = 2, local_epochs: int = 1) -> Weights:
    return simulate(job, list(job.split.clients.values()), strategy or FedAvg(**ONE), rounds, local_epochs).weights
