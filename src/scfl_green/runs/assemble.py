"""Objects from a configuration: the dataset and the job that a run needs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green.data.dataset import Dataset, kept_in, load, prepare
from scfl_green.data.reading.cells import Cells, Reading
from scfl_green.data.sources.local import cache_folder, contents
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.simulate import check_sizes
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import resize
from scfl_green.runs.artifacts import Start, read_model
from scfl_green.runs.settings import Data
from scfl_green.security import targets
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.job import Job, Report
from scfl_green.training.resident import effective_precision

# Of cfg.trainer, what is not Lightning's.
OURS = ("packed", "parallel_clients")


def load_dataset(cfg: DictConfig, paths: Sequence[Path], start: Start | None, meter: EnergyMeter | None) -> Dataset:
    """The prepared dataset, from ``paths.cache`` where it is there already."""
    config: dict[str, Any] = {of: OmegaConf.to_container(cfg[of], resolve=True) for of in ("data", "genes", "split")}
    of_data = set(Data.model_fields) - {"path", "batch_size"}
    data = {key: value for key, value in config["data"].items() if key in of_data}
    settled = config | {"data": data, "files": contents(paths)}
    if start is not None:
        settled |= {"preparation": start.preparation.key(), "types": start.types}
    kept = kept_in(cache_folder(cfg.paths.cache), settled)
    # Asked of a federation alone, and before its clients tell of their genes.
    min_cells = cfg.regime.get("min_cells", 0)
    if kept.is_dir():
        dataset = load(kept)
        check_sizes(dataset.split.clients.values(), min_cells)
        return _unseen(dataset, paths, start)
    reading = {field.name: cfg.data[field.name] for field in fields(Reading)}
    preprocess = cfg.data.preprocess != "none"
    if start is not None and start.preparation.preprocess != preprocess:
        raise InputError(f"data.preprocess={cfg.data.preprocess}: the weights were trained with another one")
    try:
        cells = Cells.read(paths, Reading(**reading | {"preprocess": preprocess}))
        if start is not None:
            cells = cells.labelled_by(start.types)
        split = instantiate(cfg.split, _partial_=True, _convert_="all")(cells)
    except InputError as error:
        named = any(path.name in str(error) for path in paths)
        raise error if named else InputError(f"{', '.join(path.name for path in paths)}: {error}") from None
    check_sizes(split.clients.values(), min_cells)
    dataset = prepare(
        cells,
        split,
        instantiate(cfg.genes),
        kept,
        standardise=cfg.data.standardise,
        preprocess=preprocess,
        sum_up=partial(instantiate(cfg.gene_sums), meter=meter),
        preparation=start.preparation if start else None,
    )
    return _unseen(dataset, paths, start)


def _unseen(dataset: Dataset, paths: Sequence[Path], start: Start | None) -> Dataset:
    """The dataset, where the weights to start from have not been trained on its test cells."""
    if start is not None:
        start.seen.check(dataset.split, contents(paths), len(dataset.features.labels))
    return dataset


def make_job(
    cfg: DictConfig, dataset: Dataset, start: Start | None, meter: EnergyMeter, report: Report, checkpoint: Checkpoint
) -> Job:
    """The job on a dataset, from the weights of ``start`` where there are any."""
    n_genes, n_types = dataset.features.n_genes, len(dataset.types)
    trainer = instantiate({key: value for key, value in cfg.trainer.items() if key not in OURS})
    try:
        device = trainer(logger=False, precision="32-true").strategy.root_device.type
    except Exception as error:  # Lightning has no one exception for arguments that it refuses
        raise InputError(f"trainer: {error}") from error
    model = instantiate(cfg.model, n_genes=n_genes, n_types=n_types, _convert_="all")
    try:
        model.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise InputError(f"model.optimizer, model.scheduler: {error}") from error
    return Job(
        model=model,
        features=dataset.features,
        split=dataset.split,
        trainer=partial(trainer, precision=effective_precision(cfg.trainer.precision, device)),
        meter=meter,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        report=report,
        checkpoint=checkpoint,
        packed=cfg.trainer.packed,
        callbacks=lambda: [instantiate(callback) for callback in cfg.callbacks.values()],
        prune=instantiate(cfg.prune),
        budget=instantiate(cfg.budget),
        privacy=instantiate(cfg.privacy),
        pretraining_kg=start.emissions_kg if start else None,
        seen=start.seen.clients if start else frozenset(),
        pretrained=start.weights if start else None,
    )


@dataclass(frozen=True)
class Reopened:
    """A run as it was when it ended: its configuration (not resolved), its dataset, its model with the final weights,
    what else it left, and whether it began with new weights (``fresh``) and not with those of an earlier run."""

    cfg: DictConfig
    dataset: Dataset
    model: CellClassifier
    left: Start
    fresh: bool


def reopen(folder: Path, trusted: Sequence[str] = ()) -> Reopened:
    """What a run left in its folder, on the data that it was run on, which the cache holds or which are prepared again.

    Raises InputError where the run is not finished, where its data are missing or have changed, and where it names code
    that no configuration may (``targets.check``): the folder may be another's.
    """
    for name in (config := ".hydra/config.yaml", "model.json", "weights.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} there; name the folder of a finished run, such as logs/runs/NAME")
    cfg, left = OmegaConf.load(folder / config), read_model(str(folder), trusted)
    assert isinstance(cfg, DictConfig)
    # Added up exactly, here as over messages.
    cfg.gene_sums = {"_target_": "scfl_green.data.dataset.pooled", "_partial_": True}
    # Not resolved: of fine-tuning, weights are looked for by the name of the run.
    fresh = not OmegaConf.is_interpolation(cfg, "weights") and cfg.weights is None
    try:
        used = {of: OmegaConf.to_container(cfg[of], resolve=True) for of in ("data", "genes", "split", "model")}
        targets.check(used, trusted)
        dataset = _data_again(cfg, left, None if fresh else left)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    model = instantiate(cfg.model, n_genes=dataset.features.n_genes, n_types=len(dataset.types), _convert_="all")
    same = dataset.preparation.key() == left.preparation.key() and dataset.types == left.types
    if not same or model.state_dict().keys() != left.weights.keys():
        raise InputError(f"{folder}: its weights are of other features or another model than its configuration says")
    resize(model, left.weights)
    model.load_state_dict(left.weights)
    return Reopened(cfg, dataset, model.eval(), left, fresh)


def _data_again(cfg: DictConfig, left: Start, start: Start | None) -> Dataset:
    paths = instantiate(cfg.data.source, _partial_=True, _convert_="all")()
    if left.seen.files != [sha256 for _, sha256 in contents(paths)]:
        raise InputError(f"{', '.join(path.name for path in paths)} changed after the run; run it again")
    return load_dataset(cfg, paths, start, None)
