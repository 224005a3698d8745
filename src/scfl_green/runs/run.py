"""From a configuration to a record."""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green.data.dataset import Dataset
from scfl_green.data.seen import Seen
from scfl_green.data.sources.local import contents
from scfl_green.energy.ledger import PREPARE, Ledger
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.files import alone_in, write_atomically
from scfl_green.runs import settings
from scfl_green.runs.artifacts import Start, read_model, write_model
from scfl_green.runs.assemble import load_dataset, make_job
from scfl_green.runs.record import make_record
from scfl_green.runs.summary import print_cells, print_summary
from scfl_green.runs.tracking import Tracker
from scfl_green.security import targets
from scfl_green.training.checkpoint import Checkpoint

# Settings that cannot change a result; paths are nobody's business but this machine's.
INCIDENTAL = ("paths", "logger", "name", "seeds", "report", "optimized_metric", "trusted")
# Lightning's advice on loaders (ours slice whole batches: workers would only copy them), and its use of old torch.
NOISE = (".*does not have many workers", ".*isinstance.treespec, LeafSpec")


def run(cfg: DictConfig) -> dict[str, Any]:
    """Run one job and write its record; where its record is there already, return that.

    Raises InputError for wrong values and wrong data, before anything is trained.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings.check(config)
    targets.check(config, trusted := config["trusted"])
    config = {key: value for key, value in config.items() if key not in INCIDENTAL}
    start = None if cfg.weights is None else read_model(cfg.weights, trusted)
    folder = Path(HydraConfig.get().runtime.output_dir)
    # Partials are called here, so that their InputErrors are not wrapped into Hydra's.
    paths: list[Path] = instantiate(cfg.data.source, _partial_=True, _convert_="all")()
    what = _what(config, paths, start)
    kept = folder / "checkpoints" / what["fingerprint"]
    if (done := _finished(folder, what["fingerprint"])) is not None:
        print(f"{folder}: finished before, with this configuration; nothing to do")
        Checkpoint(kept).clear()
        return done
    # Set by Lightning when it is imported; it would tell of every fit.
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_num_threads(cfg.threads)
    # Deterministic algorithms would also fill whatever memory is taken, which is for finding bugs.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  # unknown to its types
    carbon = cfg.carbon
    meter = EnergyMeter(carbon.country, carbon.cpu_watts, carbon.ram_watts, carbon.network_kwh_per_gb)
    try:
        with meter.phase(PREPARE):
            dataset = load_dataset(cfg, paths, start, meter)
            if HydraConfig.get().mode != RunMode.MULTIRUN or HydraConfig.get().job.num == 0:
                print_cells(dataset)
        with alone_in(folder):
            return _train(cfg, config, what, dataset, paths, start, meter, folder, Checkpoint(kept))
    finally:
        meter.close()


def _what(config: dict[str, Any], paths: Sequence[Path], start: Start | None) -> dict[str, Any]:
    """What is run: the groups' choices, the seed, and a hash of all that can change the result."""
    choices = HydraConfig.get().runtime.choices
    # Files are known by their content, wherever they lie and came from.
    data = {key: value for key, value in config["data"].items() if key not in ("source", "path", "likes")}
    hashed = config | {"data": data, "weights": start and start.sha256, "files": contents(paths)}
    # Equal in runs that repeat each other: the seed, and the weights that come from it, are all that differs.
    split = {key: value for key, value in config["split"].items() if key != "seed"}
    method = {key: value for key, value in hashed.items() if key not in ("seed", "weights")} | {"split": split}
    named = {"data": config["data"]["name"]} | {key: choices[key] for key in ("model", "opt", "regime", "split")}
    return named | {"seed": config["seed"], "fingerprint": _hash(hashed), "method": _hash(method)}


def _hash(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


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


def _train(
    cfg: DictConfig,
    config: dict[str, Any],
    what: dict[str, Any],
    dataset: Dataset,
    paths: Sequence[Path],
    start: Start | None,
    meter: EnergyMeter,
    folder: Path,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    cells = contents(paths), len(dataset.features.labels)
    if checkpoint.begun:
        unit, step, _ = checkpoint.state["told"][-1]
        print(f"{folder}: was begun before; goes on after {unit} {step}")
        meter.add(Ledger.from_rows(checkpoint.state["used"]))
    with Tracker(folder, meter, config, partial(instantiate, cfg.logger), checkpoint) as tracker:
        job = make_job(cfg, dataset, start, meter, tracker.report, checkpoint)
        job.warm_up()
        try:
            outcome = instantiate(cfg.regime, _convert_="all")(job)
        except InputError:
            if job.last_good is not None and job.history:
                seen = Seen.of(list(job.split.clients.values()), *cells, start.seen if start else None)
                write_model(folder, job.last_good, dataset.preparation, dataset.types, config["model"], seen)
                print(f"{folder}: the weights of the last good round")
            raise
        finally:
            if job.privacy is not None and job.privacy.rows:
                job.privacy.write(folder / "epsilon.csv")
        if not all(value.isfinite().all() for value in outcome.weights.values()):
            raise InputError("training diverged, the weights are not finite: lower model.optimizer.lr")
        scores = job.test(job.split.to_test(outcome.parts), outcome.weights)
        meter.read()
        record = make_record(what, job, outcome, scores[""], min_seconds=cfg.carbon.min_seconds)
        confusion = pd.DataFrame(job.confusion.numpy(), index=dataset.types, columns=dataset.types)
        confusion.to_csv(folder / "confusion.csv", index_label="true")
        tracker.finish(record, {"cells": _without_names(dataset.table()), "confusion": confusion})
    _draw(cfg.data.name, dataset, folder / "cells.png")
    dataset.table().to_csv(folder / "cells.csv")
    print_summary(record, scores, meter)
    if job.privacy is not None:
        print(job.privacy.told())
    seen = Seen.of(outcome.parts, *cells, start.seen if start else None)
    write_model(folder, outcome.weights, dataset.preparation, dataset.types, config["model"], seen)
    meter.write(folder / "energy.csv")
    if outcome.rows:
        write_atomically(folder / "finetune.csv", pd.DataFrame(outcome.rows).to_csv(index=False).encode())
    # Last: a run that has a record is finished.
    write_atomically(folder / "result.json", json.dumps(record, indent=1).encode())
    checkpoint.clear()
    print(f"{folder}: result.json, weights.safetensors, model.json, metrics.csv, energy.csv")
    return record


def _without_names(cells: pd.DataFrame) -> pd.DataFrame:
    """The same table for others to see: clients, who may be donors, by number."""
    clients, kept_for = (cells.index.get_level_values(level) for level in (0, 1))
    return cells.set_axis(pd.MultiIndex.from_arrays([pd.factorize(clients)[0] + 1, kept_for], names=cells.index.names))


def _draw(name: str, dataset: Dataset, path: Path) -> None:
    """Cells by client and type, drawn once for all jobs that use the dataset."""
    if not (kept := dataset.folder / path.name).exists():
        from scfl_green.runs.picture import (
            draw_cells,  # matplotlib takes its time, and most jobs find the picture drawn
        )

        draw_cells(name, dataset.table(), path)
        shutil.copy(path, draft := kept.with_name(f".{os.getpid()}.png"))
        draft.replace(kept)
    shutil.copy(kept, path)
