"""From a configuration to a record: the last file that sees a DictConfig."""

import hashlib
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green import settings
from scfl_green.artifacts import Start, read_model, write_atomically, write_model
from scfl_green.carbon import EnergyMeter
from scfl_green.data.cells import Cells
from scfl_green.data.dataset import Dataset, prepare
from scfl_green.data.sources import locate
from scfl_green.errors import InputError
from scfl_green.job import Job, effective_precision
from scfl_green.record import make_record, write_energy
from scfl_green.summary import print_summary
from scfl_green.tracking import Tracker

# Settings that cannot change a result; paths are nobody's business but this machine's.
INCIDENTAL = ("paths", "logger", "name", "optimized_metric")
# Lightning's advice on loaders (ours slice whole batches: workers would only copy them), and its use of old torch.
NOISE = (".*does not have many workers", ".*isinstance.treespec, LeafSpec")


def run(cfg: DictConfig) -> dict[str, Any]:
    """Run one job and write its record; where its record is there already, return that.

    Raises InputError for wrong values and wrong data, before anything is trained.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings.check(config)
    config = {key: value for key, value in config.items() if key not in INCIDENTAL}
    start = None if cfg.weights is None else read_model(cfg.weights)
    folder = Path(HydraConfig.get().runtime.output_dir)
    what = _what(config, start)
    if (done := _finished(folder, what["fingerprint"])) is not None:
        print(f"{folder}: finished before, with this configuration; nothing to do")
        return done
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_num_threads(cfg.threads)
    dataset = load_dataset(cfg, start)
    meter = EnergyMeter(cfg.carbon.country, cfg.carbon.cpu_watts, cfg.carbon.ram_watts)
    try:
        return _train(cfg, config, what, dataset, start, meter, folder)
    finally:
        meter.close()


def _what(config: dict[str, Any], start: Start | None) -> dict[str, Any]:
    """What is run: the groups' choices, the seed, and a hash of all that can change the result."""
    choices = HydraConfig.get().runtime.choices
    hashed = config | {"weights": start and start.sha256}
    if "path" in (source := config["data"]["source"]):
        with locate(source["path"]).open("rb") as file:
            hashed["file"] = hashlib.file_digest(file, "sha256").hexdigest()
    fingerprint = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]
    named = {group: choices[group] for group in ("data", "model", "opt", "regime", "split")}
    return named | {"seed": config["seed"], "fingerprint": fingerprint}


def _finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The record of an earlier run of this configuration; a run of another one is set aside, not lost."""
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged; remove it to run again") from error
    if record["fingerprint"] == fingerprint:
        return record
    aside = folder / f"earlier-{record['fingerprint']}"
    aside.mkdir(exist_ok=True)
    for file in [file for file in folder.iterdir() if file.is_file()]:
        file.replace(aside / file.name)
    print(f"{folder}: held a run of another configuration, which is now in {aside.name}")
    return None


def load_dataset(cfg: DictConfig, start: Start | None) -> Dataset:
    # Partials are called here, so that their InputErrors are not wrapped into Hydra's.
    adata = instantiate(cfg.data.source, _partial_=True)()
    cells = Cells.from_anndata(adata, cfg.data.label_key, cfg.data.client_key)
    if start is not None:
        cells = cells.labelled_by(start.types)
    split = instantiate(cfg.split, _partial_=True, _convert_="all")(cells)
    choose_genes = instantiate(cfg.genes)
    return prepare(cells, split, choose_genes, cfg.data.standardise, start.preparation if start else None)


def _job(cfg: DictConfig, dataset: Dataset, start: Start | None, tracker: Tracker) -> Job:
    n_genes, n_types = dataset.features.n_genes, len(dataset.types)
    trainer = instantiate(cfg.trainer)
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
        meter=tracker.meter,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        report=tracker.report,
        callbacks=lambda: [instantiate(callback) for callback in cfg.callbacks.values()],
        prune=instantiate(cfg.prune),
        seen=start.clients if start else frozenset(),
        pretrained=start.weights if start else None,
    )


def _train(
    cfg: DictConfig,
    config: dict[str, Any],
    what: dict[str, Any],
    dataset: Dataset,
    start: Start | None,
    meter: EnergyMeter,
    folder: Path,
) -> dict[str, Any]:
    with Tracker(folder, meter, config, partial(instantiate, cfg.logger)) as tracker:
        job = _job(cfg, dataset, start, tracker)
        job.warm_up()
        outcome = instantiate(cfg.regime, _convert_="all")(job)
        if not all(value.isfinite().all() for value in outcome.weights.values()):
            raise InputError("training diverged, the weights are not finite: lower model.optimizer.lr")
        scores = job.test(job.split.to_test(outcome.parts), outcome.weights)
        meter.read()
        record = make_record(what, job, outcome, scores[""], cfg.carbon.network_kwh_per_gb)
        tracker.finish(record)
    print_summary(record, scores, meter)
    clients = job.seen.union(part.name for part in outcome.parts)
    write_model(folder, outcome.weights, dataset.preparation, dataset.types, config["model"], clients)
    write_energy(folder / "energy.csv", meter)
    # Last: a run that has a record is finished.
    write_atomically(folder / "result.json", json.dumps(record, indent=1).encode())
    print(f"{folder}: result.json, weights.safetensors, model.json, metrics.csv, energy.csv")
    return record
