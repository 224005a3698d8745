"""One run, from a configuration to a record."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green.data.dataset import Dataset
from scfl_green.energy.boamps import boamps
from scfl_green.energy.intensity import WHERE, Intensity
from scfl_green.energy.ledger import PREPARE, TRACKING
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.network import Network
from scfl_green.federated.strategy import QuorumError
from scfl_green.files import write_atomically
from scfl_green.runs.assemble import load_dataset, make_job
from scfl_green.runs.cells import draw_cells, print_cells, table_without_names
from scfl_green.runs.folder import SUMMARY, RunFolder, identify
from scfl_green.runs.inputs import Inputs, checked
from scfl_green.runs.names import hydra_node
from scfl_green.runs.process import set_up_process
from scfl_green.runs.record import make_record
from scfl_green.runs.regimes import Outcome, Trained
from scfl_green.runs.saving import save
from scfl_green.runs.scoring import calibrated, score, test_tables
from scfl_green.runs.summary import summary
from scfl_green.runs.tracking import Tracker
from scfl_green.runs.validation import validated
from scfl_green.terminal import wrapped
from scfl_green.training.job import Job

LOG = logging.getLogger(__name__)


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


def run(cfg: DictConfig, invocation: Invocation | None = None) -> dict[str, Any]:
    """Run one job and write its record, or return the record of the same run, if it is finished.

    Raises InputError for wrong settings and wrong data, before training.
    """
    invocation = invocation or Invocation.of_hydra()
    inputs = checked(cfg)
    folder = RunFolder(invocation.folder, identify(inputs.config, invocation.choices, inputs.paths, inputs.start))
    if (record := folder.finished()) is not None:
        if not invocation.in_sweep:
            LOG.info(folder.summary())
        return record
    set_up_process(cfg)
    # A partial, so that Hydra does not wrap its InputErrors.
    network: Network = instantiate(cfg.sites, _partial_=True)()
    with metered(cfg) as meter, network:
        with meter.phase(PREPARE):
            dataset = network.dataset(cfg, meter) or load_dataset(cfg, inputs.paths, inputs.start, meter)
        if invocation.prints_cells:
            print_cells(dataset)
        with folder.locked():
            # Another process may have finished it by now.
            return folder.finished() or _run(inputs, dataset, meter, folder, network)


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


def _run(inputs: Inputs, dataset: Dataset, meter: EnergyMeter, folder: RunFolder, network: Network) -> dict[str, Any]:
    cfg, checkpoint = inputs.cfg, folder.checkpoint()
    meter.load_state_dict(checkpoint.parts.get("energy", {}))
    with Tracker(folder.path, meter, inputs.config, partial(instantiate, cfg.logger)) as tracker:
        job = make_job(cfg, dataset, inputs.start, meter, tracker, checkpoint)
        job.network = network
        job.warm_up()
        with meter.phase(TRACKING):
            tracker.open()
        outcome = validated(job, calibrated(job, _train(inputs, dataset, job, folder)))
        tested = score(job, outcome)
        meter.read()
        record = make_record(folder.identity, job, outcome, tested.scores, min_seconds=cfg.carbon.min_seconds)
        tables = test_tables(dataset, tested)
        without_names = {"cells": table_without_names(dataset), "sites": tables["sites"].rename(dataset.split.numbers)}
        tracker.finish(record, tables | without_names)
    LOG.info(text := "\n".join([summary(record, tested, meter), *map(wrapped, outcome.answers(record))]))
    write_atomically(folder.path / SUMMARY, text.encode())
    for note in filter(None, (hook.note() for hook in job.hooks)):
        LOG.info(note)
    _write(cfg.data.name, dataset, folder.path, tables, outcome)
    meter.write(folder.path / "energy.csv")
    saved = save(inputs, dataset, outcome.models, folder.path, job)
    network.finish(job, outcome.models[0].weights, folder.path)
    write_atomically(folder.path / "boamps.json", json.dumps(boamps(meter, record), indent=1).encode())
    folder.finish(record)
    LOG.info("%s: result.json, %s, metrics.csv, energy.csv", folder.path, saved)
    return record


def _write(name: str, dataset: Dataset, folder: Path, tables: dict[str, pd.DataFrame], outcome: Outcome) -> None:
    """Write the tables of a run, and draw its cells."""
    draw_cells(name, dataset, folder / "cells.png")
    tables |= {"finetune": pd.DataFrame(outcome.rows).set_index("arm")} if outcome.rows else {}
    for of, table in (tables | {"cells": dataset.table()}).items():
        write_atomically(folder / f"{of}.csv", table.to_csv().encode())


def _train(inputs: Inputs, dataset: Dataset, job: Job, folder: RunFolder) -> Outcome:
    """Train by the regime; InputError if the weights are not finite. A federation that loses its clients saves the
    weights of its last good round."""
    try:
        outcome: Outcome = instantiate(inputs.cfg.regime, _convert_="all")(job)
    except QuorumError as error:
        if error.weights is not None:
            save(inputs, dataset, [Trained(error.weights, list(job.split.clients.values()))], folder.path, job)
            LOG.info("%s: saved the weights of the last good round", folder.path)
        raise
    finally:
        for hook in job.hooks:
            hook.write(folder.path)
    if not all(value.isfinite().all() for model in outcome.models for value in model.weights.values()):
        raise InputError("training diverged, its weights are not finite: lower model.optimizer.lr")
    return outcome
