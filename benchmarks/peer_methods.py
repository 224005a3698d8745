"""Trainings that ``benchmarks.peers`` compares, ours and those of other tools as their authors recommend them."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from hydra.utils import instantiate
from omegaconf import DictConfig

from scfl_green.data.dataset import Dataset
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.energy.ledger import FIT
from scfl_green.energy.meter import EnergyMeter
from scfl_green.runs.assemble import make_job


@dataclass(frozen=True)
class Task:
    """A central training: the cells, the rows of those to train on and to test on, and the meter that it is charged to
    as the phase ``FIT``."""

    cfg: DictConfig
    dataset: Dataset
    train: np.ndarray
    test: np.ndarray
    meter: EnergyMeter

    def counts(self) -> tuple[AnnData, AnnData]:
        """The counts of all genes that the training and the test cells were read with; ``obs`` has type and study."""
        reading = {field.name: self.cfg.data[field.name] for field in fields(Reading) if field.name in self.cfg.data}
        paths = instantiate(self.cfg.data.source, _convert_="all")
        cells = Cells.read(paths, Reading(**reading | {"preprocess": True}))
        assert (cells.labels == self.dataset.features.labels).all()
        obs = pd.DataFrame({"type": np.array(cells.types)[cells.labels], "study": cells.clients}).astype("category")
        whole = AnnData(cells.counts[:], obs.set_axis(map(str, obs.index)), pd.DataFrame(index=cells.genes))
        return whole[self.train].copy(), whole[self.test].copy()

    def votes(self, predicted: Any) -> torch.Tensor:
        """Predicted types, by name, as logits."""
        numbers = pd.Index(self.dataset.types).get_indexer(pd.Index(predicted))
        return torch.nn.functional.one_hot(torch.from_numpy(numbers), len(self.dataset.types)).float()


def ours(task: Task) -> torch.Tensor:
    torch.manual_seed(task.cfg.seed)
    job = make_job(task.cfg, task.dataset, None, task.meter)
    job.warm_up()
    (trained,) = instantiate(task.cfg.regime, _convert_="all")(job).models
    return job.logits(task.test, trained.weights)[0]


def logistic_regression(task: Task, standardised: bool = False) -> torch.Tensor:
    """On the features that ours read: log-normalised and centred, and here perhaps divided by standard deviations."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (tested, _) = (task.dataset.features.batch(rows) for rows in (task.train, task.test))
    scaled = [StandardScaler()] if standardised else []
    classifier = make_pipeline(*scaled, LogisticRegression(max_iter=1000))
    with task.meter.phase(FIT):
        classifier.fit(x.numpy(), y.numpy())
    return torch.from_numpy(classifier.decision_function(tested.numpy())).float()


def celltypist(task: Task) -> torch.Tensor:
    """All genes; Domínguez Conde et al. 2022 (Science 376:eabl5197), as the defaults of ``celltypist.train``."""
    import celltypist
    import scanpy as sc

    celltypist.logger.set_level(40)
    train, test = task.counts()
    for cells in (train, test):
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
    with task.meter.phase(FIT):
        model = celltypist.train(train, labels="type")
    return task.votes(celltypist.annotate(test, model=model).predicted_labels["predicted_labels"])


def scanvi(task: Task) -> torch.Tensor:
    """2,000 genes, sizes and label sampling as in common tutorials, epochs by default (here 400 of scVI and 10);
    Xu et al. 2021 (Mol. Syst. Biol. 17:e9620). No training cells are set aside, since nothing would be decided by
    them; test cells are unknown in training."""
    import scanpy as sc
    from scvi import settings
    from scvi.model import SCANVI, SCVI

    settings.seed = task.cfg.seed
    train, test = task.counts()
    sc.pp.highly_variable_genes(train, flavor="seurat_v3", n_top_genes=2000, batch_key="study", subset=True)
    SCVI.setup_anndata(train, batch_key="study")
    how = {"accelerator": "cpu", "train_size": 1.0, "enable_progress_bar": False}
    with task.meter.phase(FIT):
        unlabelled = SCVI(train, n_layers=2, n_latent=30, gene_likelihood="nb")
        unlabelled.train(**how)
        model = SCANVI.from_scvi_model(unlabelled, labels_key="type", unlabeled_category="Unknown")
        model.train(n_samples_per_label=100, **how)
    return task.votes(model.predict(test[:, train.var_names].copy()))
