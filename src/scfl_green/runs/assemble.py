"""Builds the dataset, the model and the job of a run from its configuration."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from scfl_green.data.agreement import agreed_sha256
from scfl_green.data.dataset import Dataset, ask_again, kept_in, load, prepare
from scfl_green.data.partition import Split
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.reading.genes import check_named
from scfl_green.data.reading.known import with_genes, with_types
from scfl_green.data.site import directly
from scfl_green.data.sources.local import cache_folder, contents
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.federation import check_sizes
from scfl_green.federated.network import Simulated, before_training
from scfl_green.models.base import CellClassifier
from scfl_green.models.grow import grown
from scfl_green.runs.agreed import for_sites, preprocesses, recipe
from scfl_green.runs.newcomer import at_one_site, client_key
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.fitting import PlainFit
from scfl_green.training.hooks import Hook, Hooks
from scfl_green.training.job import Job
from scfl_green.training.trained_model import TrainedModel
from scfl_green.training.trainer import effective_precision, stand_alone

# Settings of cfg.trainer that are not Lightning's.
NOT_LIGHTNING = ("packed", "parallel_clients")
# Settings of cfg.data that do not change the prepared dataset; files are identified by their content.
UNPREPARED = ("path", "source", "like", "likes", "batch_size")


def load_dataset(
    cfg: DictConfig, paths: Sequence[Path], start: TrainedModel | None, meter: EnergyMeter | None
) -> Dataset:
    """Prepare the dataset, or load it from ``paths.cache``; InputError if the model to start from was trained on its
    test cells."""
    folder = kept_in(cache_folder(cfg.paths.cache), _cache_key(cfg, paths, start))
    # Only for federations, and checked before clients report their genes.
    federation = cfg.regime.get("federation")
    min_cells = federation.min_cells if federation else 0
    ask = partial(before_training, Simulated(), meter=meter) if federation and meter else directly
    if folder.is_dir():
        dataset = load(folder)
        _check_sites(dataset.split, meter)
        check_sizes(dataset.split.clients.values(), min_cells)
        if federation and meter and start is None:
            # The cache saved this machine the work, but a federation sends these messages all the same.
            ask_again(recipe(cfg, ask), dataset.asked)
    else:
        cells, split = _read(cfg, paths, start)
        _check_sites(split, meter)
        check_sizes(split.clients.values(), min_cells)
        dataset = prepare(cells, split, folder, recipe(cfg, ask), start.preparation if start else None)
    if start is not None:
        start.seen.check(dataset.split, contents(paths), len(dataset.features.labels))
    return dataset


def _check_sites(split: Split, meter: EnergyMeter | None) -> None:
    """InputError for countries of sites that are not there."""
    if meter is not None:
        meter.intensity.check_sites(split.numbers)


def _cache_key(cfg: DictConfig, paths: Sequence[Path], start: TrainedModel | None) -> dict[str, Any]:
    """Everything that a prepared dataset depends on."""
    config: dict[str, Any] = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("data", "genes", "split")}
    data = {key: value for key, value in config["data"].items() if key not in UNPREPARED}
    key = config | {"data": data, "files": contents(paths)}
    if at_one_site(cfg):
        key |= {"at_one_site": True}
    if start is not None:
        known = start.preparation
        key |= {"preparation": known.key(), "symbols": known.symbols.tolist(), "types": start.types}
        key |= {"type_ids": start.type_ids, "new_types": _learns_types(cfg)}
    return key


def _read(cfg: DictConfig, paths: Sequence[Path], start: TrainedModel | None) -> tuple[Cells, Split]:
    preprocess = preprocesses(cfg)
    if start is not None and start.preparation.preprocess != preprocess:
        raise InputError(f"data.preprocess={cfg.data.preprocess}: weights= were trained with another; set the same")
    # Runs of earlier versions have fewer settings.
    reading = {field.name: cfg.data[field.name] for field in fields(Reading) if field.name in cfg.data}
    try:
        cells = Cells.read(paths, Reading(**reading | {"preprocess": preprocess, "client_key": client_key(cfg)}))
        if len(paths) == 1 and at_one_site(cfg):
            cells = replace(cells, clients=np.full(len(cells), paths[0].stem, dtype=object))
        if start is not None:
            known = start.preparation
            if not start.seen.matches(contents(paths), len(cells)):
                check_named(known.genes)
            cells = with_genes(cells, known.genes, known.symbols, cfg.data.min_gene_overlap)
            cells = with_types(cells, start.types, start.type_ids, grows=_learns_types(cfg))
        return cells, instantiate(cfg.split, _partial_=True, _convert_="all")(cells)
    except InputError as error:
        names_file = any(path.name in str(error) for path in paths)
        raise error if names_file else InputError(f"{', '.join(path.name for path in paths)}: {error}") from None


def _learns_types(cfg: DictConfig) -> bool:
    return bool(cfg.finetuning.get("new_types"))  # runs of earlier versions have no such setting


def make_job(
    cfg: DictConfig,
    dataset: Dataset,
    start: TrainedModel | None,
    meter: EnergyMeter,
    progress: Hook | None = None,
    checkpoint: Checkpoint | None = None,
) -> Job:
    """The job on a dataset, starting from the model ``start``, if given, and resuming from ``checkpoint``."""
    trainer, device = _trainer(cfg)
    checkpoint = checkpoint or Checkpoint()
    model, privacy = make_model(cfg, dataset), instantiate(cfg.privacy)
    return Job(
        model=model,
        features=dataset.features,
        split=dataset.split,
        trainer=partial(trainer, precision=effective_precision(cfg.trainer.precision, device)),
        meter=meter,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        packed=cfg.trainer.packed,
        callbacks=lambda: [instantiate(callback) for callback in cfg.callbacks.values()],
        start=start and _grown(cfg, start, model),
        fitter=privacy or PlainFit(),
        hooks=_hooks(cfg, privacy, progress),
        saved=checkpoint.parts,
        save=checkpoint.save,
        agreed=agreed_sha256(dataset.types, dataset.preparation.key(), for_sites(cfg)),
    )


def _hooks(cfg: DictConfig, privacy: Hook | None, progress: Hook | None) -> Hooks:
    """In this order: hooks that change weights or end training come before those that report."""
    own = {name: instantiate(cfg.get(name)) for name in ("prune", "budget", "end")}
    return Hooks({"privacy": privacy, **own, "progress": progress})


def _grown(cfg: DictConfig, start: TrainedModel, model: CellClassifier) -> TrainedModel:
    """The model to start from, with the outputs of the untrained ``model`` for types that it does not know."""
    wide = model.state_dict()
    if model.n_types == len(start.types) or wide.keys() != start.weights.keys():
        return start  # or another network, which the job refuses
    with torch.device("meta"):  # for shapes alone
        narrow = _instantiate_model(cfg, len(start.preparation.genes), len(start.types)).state_dict()
    return replace(start, weights=grown(start.weights, narrow, wide))


def _trainer(cfg: DictConfig) -> tuple[Callable[..., Trainer], str]:
    """A factory of Trainers, and the device type that they will use."""
    stand_alone()
    trainer = instantiate({key: value for key, value in cfg.trainer.items() if key not in NOT_LIGHTNING})
    try:
        return trainer, trainer(logger=False, precision="32-true").strategy.root_device.type
    except Exception as error:  # Lightning has no common exception for invalid arguments
        raise InputError(f"trainer: {error}") from error


def make_model(cfg: DictConfig, dataset: Dataset) -> CellClassifier:
    model = _instantiate_model(cfg, dataset.features.n_genes, len(dataset.types))
    model.broad = dataset.broad
    try:
        model.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise InputError(f"model.optimizer, model.scheduler: {error}") from error
    return model


def _instantiate_model(cfg: DictConfig, n_genes: int, n_types: int) -> CellClassifier:
    model: CellClassifier = instantiate(cfg.model, n_genes=n_genes, n_types=n_types, _convert_="all")
    return model
