"""The record of a run: one flat row, written whole or not at all."""

import platform
from importlib.metadata import version
from typing import Any

import psutil
import torch

from scfl_green.energy.eaps import eaps
from scfl_green.energy.ledger import FIT, PREPARE
from scfl_green.runs.regimes import Outcome
from scfl_green.training.job import Job

ENERGY = ("energy_kwh", "energy_cpu_kwh", "energy_gpu_kwh", "energy_ram_kwh", "emissions_kg")
PACKAGES = ("torch", "pytorch-lightning", "flwr", "codecarbon", "scfl-green")


def make_record(
    what: dict[str, Any], job: Job, outcome: Outcome, scores: dict[str, float], *, min_seconds: float
) -> dict[str, Any]:
    """The fields of ``result.json`` in their order; ``what`` names what was run.

    A run that trained for less than ``min_seconds`` is marked ``too_short`` for its energy to mean much.
    """
    meter, trained = job.meter, job.meter.total(FIT)
    bytes_up, bytes_down = meter.moved()
    transfer_kwh, transfer_kg = meter.transfer()
    first = {name: value for name, value in what.items() if name != "method"}
    return first | {
        "cells_train": sum(len(p.train) for p in outcome.parts),
        "cells_test": sum(len(p.test) for p in job.split.to_test(outcome.parts)),
        "genes": job.features.n_genes,
        "types": job.model.n_types,
        "clients": len(outcome.parts),
        "rounds": outcome.rounds,
        "local_epochs": outcome.local_epochs,
        "epochs": outcome.epochs,
        "batch_size": job.batch_size,
        "precision": job.resident.precision,
        "parameters": sum(p.numel() for p in job.model.parameters()),
        **scores,
        "seconds_fit": trained.seconds,
        **{name: getattr(trained, name) for name in ENERGY},
        "energy_mode": meter.mode,
        "country": meter.country,
        "carbon_intensity_kg_per_kwh": meter.intensity,
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "transfer_kwh": transfer_kwh,
        "transfer_emissions_kg": transfer_kg,
        "train_flops": round(trained.flops),
        "eaps": eaps(scores["weighted_f1"], trained.emissions_kg + transfer_kg),
        "versions": {package: version(package) for package in (*PACKAGES, *(["opacus"] if job.privacy else []))},
        "too_short": trained.seconds < min_seconds,
        "cells_seen": trained.cells,
        # Of what is asked before training: numbers of cells, and sums by gene unless the prepared dataset was there.
        "bytes_prepare": meter.total(PREPARE).bytes_up + meter.total(PREPARE).bytes_down,
        "eaps_cpu": eaps(scores["weighted_f1"], trained.energy_cpu_kwh * meter.intensity),
        **outcome.more,
        **(job.privacy.summary() if job.privacy else {"epsilon": None, "delta": None}),
        **_machine(job),
        "method": what["method"],
    }


def _machine(job: Job) -> dict[str, Any]:
    """The state of the machine, by which figures of two runs may differ."""
    return {
        "device": job.resident.device,
        "threads": torch.get_num_threads(),
        "cores": psutil.cpu_count(),
        "load_at_start": job.meter.load_at_start,
        "processor": platform.processor() or platform.machine(),
    }
