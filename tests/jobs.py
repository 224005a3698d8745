"""Small jobs on real cells, built without any configuration."""

import os
import tempfile
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from flwr.serverapp.strategy import FedAvg, Strategy

from scfl_green.data.clients import by_client
from scfl_green.data.dataset import Dataset, Recipe, prepare
from scfl_green.data.features.prepare import ChooseGenes, Preparation, between_within
from scfl_green.data.partition import Split
from scfl_green.data.reading.cells import Cells
from scfl_green.data.seen import Seen
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.federation import Federated, Federation
from scfl_green.models.actinn import ACTINN
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import Weights
from scfl_green.training.fitting import PlainFit
from scfl_green.training.hooks import Hook, Hooks, Step
from scfl_green.training.job import Job
from scfl_green.training.trained_model import TrainedModel

ADAM = partial(torch.optim.Adam, lr=1e-3)
# As a run's configuration holds it.
ACTINN_CONFIG = {
    "_target_": "scfl_green.models.ACTINN",
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3},
}


ONE = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
SPLIT = {"test": "cells", "test_share": 0.2, "validation": 0.1, "newcomers": 0, "seed": 1}


def split_of(cells: Cells, **changed: Any) -> Split:
    return by_client(cells, **SPLIT | changed)


def prepared(cells: Cells, split: Split, choose_genes: ChooseGenes, standardise: bool = False, **more: Any) -> Dataset:
    """Prepared in a folder of its own."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["SCFL_CACHE"])) / "prepared"
    preparation = more.pop("preparation", None)
    return prepare(cells, split, folder, Recipe(choose_genes, standardise, **more), preparation)


class Recorder(Hook):
    """Records the steps that it is called after, and reads the meter as the progress of a run does."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def after(self, step: Step) -> None:
        self.steps.append(step)

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [step.metrics for step in self.steps]


def make_job(
    cells: Cells,
    meter: EnergyMeter,
    split: Split | None = None,
    model: Callable[..., CellClassifier] = ACTINN,
    hooks: Mapping[str, Hook | None] | None = None,
    privacy: Any = None,
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
            "fitter": privacy or PlainFit(),
            "hooks": Hooks({"privacy": privacy, **(hooks or {})}),
        }
        | changed
    )


def trained(job: Job, weights: Weights | None = None) -> TrainedModel:
    """A model to start from that nobody has trained yet."""
    nothing = np.empty(0)
    preparation = Preparation(nothing, nothing, nothing, nothing)
    types = tuple(f"type {number}" for number in range(job.model.n_types))
    return TrainedModel({}, weights or job.initial, preparation, types, Seen(frozenset(), [], nothing))


def simulated(
    job: Job, strategy: Strategy | None = None, rounds: int = 2, local_epochs: int = 1, **how: Any
) -> Federated:
    """The federation of all clients of a job."""
    federation = Federation(strategy or FedAvg(**ONE), rounds, local_epochs, **how)
    return federation.train(job, list(job.split.clients.values()))


def federate(job: Job, strategy: Strategy | None = None, rounds: int = 2, local_epochs: int = 1) -> Weights:
    return simulated(job, strategy, rounds, local_epochs).weights


def in_child(function: Callable[[], object]) -> int:
    """How a fork of this process ends that calls a function: its exit status, or minus the signal."""
    if (child := os.fork()) == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def left_by(
    job: Job, cells: Cells, config: dict[str, Any], weights: Weights, folder: Path, **known: Any
) -> TrainedModel:
    """What a run of this job and model leaves in its folder."""
    preparation = prepared(cells, job.split, partial(between_within, n_genes=100)).preparation
    seen = Seen.of(list(job.split.clients.values()), [("cells", "sha256")], len(cells), None)
    known |= {"type_ids": cells.type_ids, "n_genes_read": len(cells.genes)}
    model = TrainedModel(config, weights, preparation, cells.types, seen, **known)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    return model


def as_adata(cells: Cells) -> ad.AnnData:
    """Cells as the file from which they could have been read."""
    names = [f"cell{number}" for number in range(len(cells))]
    columns = {"cell_type": np.array(cells.types)[cells.labels], "donor_id": cells.donors, "site": cells.clients}
    obs = pd.DataFrame(columns, index=names, dtype="category")
    var = pd.DataFrame({"feature_name": cells.symbols}, index=cells.genes)
    return ad.AnnData(cells.counts[:].copy(), obs=obs, var=var)
