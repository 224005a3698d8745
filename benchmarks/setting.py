"""Datasets and jobs for the parts: configured as a run is, on made-up cells or the embedded dataset."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.measure import ROOT
from scfl_green.data.clients import iid
from scfl_green.data.dataset import Dataset, Recipe, kept_in, load, prepare
from scfl_green.data.features.prepare import between_within
from scfl_green.data.partition import Split
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources import synthetic
from scfl_green.models.base import CellClassifier
from scfl_green.runs.assemble import load_dataset, make_job
from scfl_green.runs.names import register_resolvers
from scfl_green.runs.run import metered
from scfl_green.runs.tracking import Tracker
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.job import Job


def quiet() -> None:
    """One thread, and no words of libraries between the rows."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", ["logger=none", "trainer.accelerator=cpu", "federation.min_cells=0", *overrides])


def made_up(cache: Path, cells: int, genes: int, clients: int, validation: float = 0.1) -> Dataset:
    """Made-up cells as deep as dataset A's, dealt out evenly; 9 types; made once and kept in a cache."""
    size = {"cells": cells, "genes": genes, "types": 9, "donors": 4, "depth": 550, "seed": 0}
    folder = kept_in(cache, size | {"clients": clients, "validation": validation})
    if not folder.is_dir():
        with TemporaryDirectory() as made:
            synthetic.write(path := Path(made) / "made_up.h5ad", **size)
            read = Cells.read([path], Reading("cell_type", None, keep_empty=True))
        split = iid(read, clients=clients, test="cells", test_share=0.2, validation=validation, newcomers=0, seed=0)
        prepare(read, split, folder, Recipe(partial(between_within, n_genes=genes)))
    return load(folder)


def first_clients(dataset: Dataset, n: int) -> Dataset:
    return replace(dataset, split=Split(dict(list(dataset.split.clients.items())[:n]), {}))


def embedded(cache: Path, *overrides: str) -> Dataset:
    """The embedded dataset as the default run prepares it, under these choices of ``split``."""
    # Sums by gene are the same without messages, which would want a meter.
    cfg = composed("regime=central", f"paths.cache={cache}", *overrides)
    with redirect_stdout(io.StringIO()):
        return load_dataset(cfg, instantiate(cfg.data.source, _convert_="all"), None, None)


@dataclass(frozen=True)
class Setting:
    """A job as ``train.py`` makes it, and its regime; warmed up."""

    cfg: DictConfig
    dataset: Dataset
    job: Job

    def run(self) -> dict[str, torch.Tensor]:
        """The weights that the configured regime arrives at."""
        with redirect_stdout(io.StringIO()):
            (trained,) = instantiate(self.cfg.regime, _convert_="all")(self.job).models
            return trained.weights

    def new_model(self) -> CellClassifier:
        n_genes, n_types = self.dataset.features.n_genes, len(self.dataset.types)
        model = instantiate(self.cfg.model, n_genes=n_genes, n_types=n_types, _convert_="all")
        model.load_state_dict(self.job.initial)
        return model


@contextmanager
def setting(dataset: Dataset, *overrides: str) -> Iterator[Setting]:
    """Everything that a run has on: the meter, the rounds' metrics and energy written to files, the checks."""
    cfg = composed(*overrides)
    torch.manual_seed(cfg.seed)
    with TemporaryDirectory() as folder, metered(cfg) as meter:
        checkpoint = Checkpoint(Path(folder) / "checkpoints")
        tracker = Tracker(Path(folder), meter, {}, partial(instantiate, cfg.logger))
        tracker.bar.shown = False
        with tracker:
            job = make_job(cfg, dataset, None, meter, tracker, checkpoint)
            job.warm_up()
            yield Setting(cfg, dataset, job)
