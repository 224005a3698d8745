"""A finished model, ready to annotate cells: ``scfl_green.load``."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import scfl_green
from scfl_green.data.reading.counts import Kind
from scfl_green.data.reading.genes import GeneNames, locate
from scfl_green.energy.ledger import TEST
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import resize
from scfl_green.share.annotation import ABOUT, PROBABILITIES, Annotation, by_cluster, check_clusters, told
from scfl_green.share.cells import NewCells
from scfl_green.share.find import find
from scfl_green.share.options import Options, worded
from scfl_green.share.predict import predict
from scfl_green.training.trained_model import TrainedModel

if TYPE_CHECKING:
    from anndata import AnnData

# Below this share of the genes that the training files had, a cell's depth is another quantity.
MIN_GENES_READ = 0.5


@dataclass(frozen=True)
class Model:
    """A trained model: its name, what is known of it (``trained``), and its network, in evaluation mode."""

    name: str
    trained: TrainedModel
    network: CellClassifier

    @classmethod
    def load(cls, model: str, trusted: Sequence[str] = ()) -> "Model":
        """Load the model of a finished run, which need not be trusted.

        ``trusted``: modules whose code it may name, beyond the allow-list. InputError if there is no model, or if it
        is damaged.
        """
        folder = find(model, trusted)
        try:
            trained = TrainedModel.load(str(folder), trusted)
        except InputError as error:
            raise InputError(str(error).removeprefix("weights=")) from None
        return cls(_named(folder), trained, _network(model, trained))

    def annotate(self, adata: "AnnData", *, copy: bool = False, **options: Any) -> "AnnData | None":
        """Annotate cells as scanpy does: writes into ``adata.obs``, ``obsm`` and ``uns``, and returns nothing; or,
        with ``copy``, annotates and returns a copy.

        ``options`` are those of ``Options``: prefix="scfl_", clusters=None, coverage=0.9, by_type=False, alpha=0.01,
        counts=None, fractions=False, gene_key=None, min_gene_overlap=0.5, country="DEU". Counts are only read.
        InputError if the cells cannot be annotated; then nothing is written.
        """
        chosen = Options(**options)
        with worded():
            cells = NewCells.of_adata(adata, chosen.counts, chosen.gene_key, self.kind(chosen))
            annotation = self.annotation(cells, chosen)
        adata = adata.copy() if copy else adata
        for name, column in annotation.columns().items():
            adata.obs[name] = column.array
        adata.obsm[chosen.prefix + PROBABILITIES] = annotation.frame(adata.obs_names)
        adata.uns[chosen.prefix + ABOUT] = annotation.about
        return adata if copy else None

    def kind(self, options: Options) -> Kind:
        """The values that are expected of cells: as in training, or, if told so, fractions of counts too."""
        return Kind(self.trained.preparation.preprocess, options.fractions)

    def annotation(
        self, cells: NewCells, options: Options, advance: Callable[[int], None] = lambda _: None
    ) -> Annotation:
        """Annotate cells, which are read in blocks; ``advance`` is told how many are done."""
        names = GeneNames.from_training(self.trained.preparation.genes, self.trained.preparation.symbols)
        position = locate(names, cells.genes, options.min_gene_overlap)
        clusters = None if options.clusters is None else cells.column(options.clusters, "clusters")
        if clusters is not None:
            check_clusters(clusters, str(options.clusters))
        meter = EnergyMeter(options.country)
        try:
            with meter.phase(TEST):
                predicted = predict(self.network, self.trained, cells, position, options, advance)
            meter.read()
        finally:
            meter.close()
        obs = told(predicted, self.trained, options.alpha)
        if clusters is not None:
            obs = pd.concat([obs, by_cluster(obs["label"], clusters)], axis=1)
        used = list(meter.entries.values())
        about = self._about(cells, position, options) | {
            "country": options.country,
            "energy_kwh": sum(entry.energy_kwh for entry in used),
            "emissions_g": 1e3 * sum(entry.emissions_kg for entry in used),
        }
        notes = self._notes(cells, about, int((~predicted.expressed).sum()))
        return Annotation(obs, predicted.probabilities, self.trained.types, about, notes, options.prefix)

    def _about(self, cells: NewCells, position: np.ndarray, options: Options) -> dict[str, Any]:
        calibration = self.trained.calibration
        calibrated = {} if calibration is None else {
            "temperature": calibration.temperature,
            "calibration_cells": calibration.n_cells,
            "coverage": options.coverage,
            "coverage_by_type": options.by_type,
            "alpha": options.alpha,
        }  # fmt: skip
        missing = np.setdiff1d(np.arange(len(self.trained.preparation.genes)), position)
        return {
            "model": self.name,
            "model_sha256": self.trained.sha256,
            "scfl_green_version": scfl_green.__version__,
            "cell_types": np.array(self.trained.types, dtype=str),
            "counts_from": cells.place,
            "genes_found": len(self.trained.preparation.genes) - len(missing),
            "genes_missing": np.array(self.trained.preparation.genes[missing], dtype=str),
        } | calibrated

    def _notes(self, cells: NewCells, about: dict[str, Any], n_empty: int) -> tuple[str, ...]:
        """What a user should know of this annotation, a line each."""
        missing, n_genes = about["genes_missing"], len(self.trained.preparation.genes)
        notes = [*cells.notes]
        lacking = f"; those missing count as zero, such as {', '.join(missing[:3])}" if len(missing) else ""
        notes.append(f"genes: {about['genes_found']:,} of the model's {n_genes:,} are in the file{lacking}")
        read, found = self.trained.n_genes_read, len(cells.genes.names)
        if cells.kind.preprocess and read is not None and found < MIN_GENES_READ * read:
            notes.append(
                f"the file has {found:,} genes, those of training had {read:,}: a cell's counts add up to less than in "
                "training, and its features are higher; annotate cells before genes are selected"
            )
        if n_empty:
            notes.append(f"{n_empty:,} cells have no counts of the model's genes and are called unassigned")
        if self.trained.calibration is None:
            notes.append(
                "the model has no calibration (it had no validation cells, or is of an earlier version): probabilities "
                "are the network's own, and no cell has a set or is unassigned for being unlike the training cells"
            )
        return tuple(notes)


def _named(folder: Path) -> str:
    """The name of a folder; that of a site alone would say nothing."""
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if re.fullmatch(r"site-\d+", folder.name) else folder.name


def _network(model: str, trained: TrainedModel) -> CellClassifier:
    n_genes, n_types = len(trained.preparation.genes), len(trained.types)
    try:
        with torch.random.fork_rng([]):  # a notebook's random numbers are its own
            network = instantiate(trained.config, n_genes=n_genes, n_types=n_types, _convert_="all")
        resize(network, trained.weights)
        network.load_state_dict(trained.weights)
        with torch.inference_mode():
            logits = network.eval()(torch.zeros(1, n_genes))
            if trained.calibration is not None:
                trained.calibration.novelty_p(torch.zeros(1, n_genes))
    except (InstantiationException, RuntimeError, AttributeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:120]
        raise InputError(f"{model}: damaged files, the weights are not those of the network ({why})") from error
    if logits.shape != (1, n_types) or len(set(trained.types)) < n_types:
        raise InputError(f"{model}: damaged files, the weights are not those of its genes and cell types")
    return network
