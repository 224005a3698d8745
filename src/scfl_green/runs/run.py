"""One run, from a configuration to a record."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green.data.dataset import Dataset
from scfl_green.data.seen import Seen
from scfl_green.data.sources.local import contents
from scfl_green.energy.boamps import boamps
from scfl_green.energy.intensity import WHERE, Intensity
from scfl_green.energy.ledger import PREPARE, TRACKING
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.strategy import QuorumError
from scfl_green.files import write_atomically
from scfl_green.runs import settings
from scfl_green.runs.assemble import load_dataset, make_job
from scfl_green.runs.cells import draw_cells, print_cells, table_without_names
from scfl_green.runs.folder import SUMMARY, RunFolder, identify
from scfl_green.runs.names import hydra_node
from scfl_green.runs.newcomer import check_new
from scfl_green.runs.record import make_record
from scfl_green.runs.regimes import Outcome, Trained
from scfl_green.runs.scoring import calibrated, score, test_tables
from scfl_green.runs.summary import summary
from scfl_green.runs.tracking import Tracker
from scfl_green.share.find import shared
from scfl_green.training.job import Job
from scfl_green.training.trained_model import TrainedModel

LOG = logging.getLogger(__name__)
# Settings that cannot change a result; paths stay on this machine.
INCIDENTAL = ("paths", "logger", "name", "seeds", "max_seeds", "report", "optimized_metric", "trusted")
UNTOLD = "a shared model does not tell what it was trained on; on cells that it has seen, scores would be too high"
# Irrelevant warnings of Lightning: loaders here slice whole batches, which workers would only copy; and deprecations.
NOISE = (".*does not have many workers", ".*isinstance.treespec, LeafSpec")


@dataclass(frozen=True)
class Invocation:
    """How a run was started: its folder, the choices of its groups, whether it prints the table of cells, and whether
    it is one of a sweep's."""

    folder: Path
    choices: Mapping[str, str]
    prints_cells: bool = True
    in_sweep: bool = False

    @classmethod
    def of_hydra(cls) -> "Invocation":
        hydra = hydra_node()
        in_sweep = hydra.mode == RunMode.MULTIRUN
        prints_cells = not in_sweep or hydra.job.num == 0
        return cls(Path(hydra.runtime.output_dir), hydra.runtime.choices, prints_cells, in_sweep)


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run: its configuration, the same as plain values, the files of its cells, a model to start from."""

    cfg: DictConfig
    config: dict[str, Any]
    paths: Sequence[Path]
    start: TrainedModel | None


def run(cfg: DictConfig, invocation: Invocation | None = None) -> dict[str, Any]:
    """Run one job and write its record, or return the record of the same run, if it is finished.

    Raises InputError for wrong settings and wrong data, before training.
    """
    invocation = invocation or Invocation.of_hydra()
    inputs = _checked(cfg)
    folder = RunFolder(invocation.folder, identify(inputs.config, invocation.choices, inputs.paths, inputs.start))
    if (record := folder.finished()) is not None:
        if not invocation.in_sweep:
            LOG.info(folder.summary())
        return record
    _set_up_process(cfg)
    with metered(cfg) as meter:
        with meter.phase(PREPARE):
            dataset = load_dataset(cfg, inputs.paths, inputs.start, meter)
        if invocation.prints_cells:
            print_cells(dataset)
        with folder.locked():
            # Another process may have finished it by now.
            return folder.finished() or _run(inputs, dataset, meter, folder)


def _checked(cfg: DictConfig) -> Inputs:
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings.check(config)
    start = None
    if cfg.weights is not None:
        start = TrainedModel.load(str(shared(cfg.weights, cfg.trusted) or cfg.weights), cfg.trusted)
    if start is not None and not start.seen.told:
        LOG.info("weights=%s: %s", cfg.weights, UNTOLD)
    # A partial, so that Hydra does not wrap its InputErrors.
    paths: list[Path] = instantiate(cfg.data.source, _partial_=True, _convert_="all")()
    check_new(config, start.seen if start else None, paths)
    return Inputs(cfg, {key: value for key, value in config.items() if key not in INCIDENTAL}, paths, start)


def _set_up_process(cfg: DictConfig) -> None:
    # Set by Lightning on import; else it reports every fit.
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_num_threads(cfg.threads)
    # A debugging aid of deterministic algorithms, which fills all memory that is allocated.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  # unknown to its types


@contextmanager
def metered(cfg: DictConfig) -> Iterator[EnergyMeter]:
    """The meter of a run, as ``carbon`` configures it."""
    carbon: dict[str, Any] = OmegaConf.to_container(cfg.carbon, resolve=True)  # type: ignore[assignment]
    rest = {key: value for key, value in carbon.items() if key not in (*WHERE, "min_seconds")}
    meter = EnergyMeter(Intensity.of(carbon), **rest)
    try:
        yield meter
    finally:
        meter.close()


def _run(inputs: Inputs, dataset: Dataset, meter: EnergyMeter, folder: RunFolder) -> dict[str, Any]:
    cfg, checkpoint = inputs.cfg, folder.checkpoint()
    meter.load_state_dict(checkpoint.parts.get("energy", {}))
    with Tracker(folder.path, meter, inputs.config, partial(instantiate, cfg.logger)) as tracker:
        job = make_job(cfg, dataset, inputs.start, meter, tracker, checkpoint)
        job.warm_up()
        with meter.phase(TRACKING):
            tracker.open()
        outcome = calibrated(job, _train(inputs, dataset, job, folder))
        tested = score(job, outcome)
        meter.read()
        record = make_record(folder.identity, job, outcome, tested.scores, min_seconds=cfg.carbon.min_seconds)
        tables = test_tables(dataset, tested)
        without_names = {"cells": table_without_names(dataset), "sites": tables["sites"].rename(dataset.split.numbers)}
        tracker.finish(record, tables | without_names)
    LOG.info(text := "\n".join([summary(record, tested, meter), *outcome.answers(record)]))
    write_atomically(folder.path / SUMMARY, text.encode())
    for note in filter(None, (hook.note() for hook in job.hooks)):
        LOG.info(note)
    draw_cells(cfg.data.name, dataset, folder.path / "cells.png")
    meter.write(folder.path / "energy.csv")
    tables |= {"finetune": pd.DataFrame(outcome.rows).set_index("arm")} if outcome.rows else {}
    for name, table in (tables | {"cells": dataset.table()}).items():
        write_atomically(folder.path / f"{name}.csv", table.to_csv().encode())
    saved = _save(inputs, dataset, outcome.models, folder.path, job)
    write_atomically(folder.path / "boamps.json", json.dumps(boamps(meter, record), indent=1).encode())
    folder.finish(record)
    LOG.info("%s: result.json, %s, metrics.csv, energy.csv", folder.path, saved)
    return record


def _train(inputs: Inputs, dataset: Dataset, job: Job, folder: RunFolder) -> Outcome:
    """Train by the regime; InputError if the weights are not finite. A federation that loses its clients saves the
    weights of its last good round."""
    try:
        outcome: Outcome = instantiate(inputs.cfg.regime, _convert_="all")(job)
    except QuorumError as error:
        if error.weights is not None:
            _save(inputs, dataset, [Trained(error.weights, list(job.split.clients.values()))], folder.path, job)
            LOG.info("%s: saved the weights of the last good round", folder.path)
        raise
    finally:
        for hook in job.hooks:
            hook.write(folder.path)
    if not all(value.isfinite().all() for model in outcome.models for value in model.weights.values()):
        raise InputError("training diverged, its weights are not finite: lower model.optimizer.lr")
    return outcome


def _save(inputs: Inputs, dataset: Dataset, models: Sequence[Trained], folder: Path, job: Job) -> str:
    """Save the model in the run's folder, or each of several in its own, by number, since names may be people's; says
    what was saved."""
    before = inputs.start.seen if inputs.start else None
    places = [folder] if len(models) == 1 else [folder / f"site-{number}" for number, _ in enumerate(models, start=1)]
    for trained, place in zip(models, places, strict=True):
        place.mkdir(exist_ok=True)
        seen = Seen.of(trained.parts, contents(inputs.paths), len(dataset.features.labels), before)
        model = inputs.config["model"], trained.weights, dataset.preparation, dataset.types, seen
        TrainedModel(
            *model,
            calibration=trained.calibration,
            type_ids=dataset.type_ids,
            precision=job.reusable.precision,
            n_genes_read=dataset.n_genes_read,
        ).save(place)
    return "weights.safetensors, model.json" if len(models) == 1 else f"a model in each of site-1 to site-{len(models)}"
