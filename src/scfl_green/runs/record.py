"""The record of a run: the fields of ``result.json``."""

import platform
from importlib.metadata import version
from typing import Any

import psutil
import torch

from scfl_green.energy.eaps import HIGH_NETWORK_KWH_PER_GB, LOW_NETWORK_KWH_PER_GB, eaps
from scfl_green.energy.ledger import AGGREGATE, CALIBRATE, IDLE, TEST, WAITING
from scfl_green.energy.meter import EnergyMeter
from scfl_green.energy.node import of_slurm
from scfl_green.runs.regimes import Outcome
from scfl_green.runs.scoring import SCALED, calibration_fields
from scfl_green.training.job import Job

ENERGY = ("energy_kwh", "energy_cpu_kwh", "energy_gpu_kwh", "energy_ram_kwh", "emissions_kg")
PACKAGES = ("torch", "pytorch-lightning", "flwr", "codecarbon", "scfl-green")


def make_record(
    identity: dict[str, Any], job: Job, outcome: Outcome, scores: dict[str, float], *, min_seconds: float
) -> dict[str, Any]:
    """The fields of ``result.json``, including ``identity`` (``runs.folder.identify``).

    A run that trained for less than ``min_seconds`` is marked as ``too_short`` for a reliable energy figure.
    """
    trained = job.meter.trained()
    return {
        **identity,
        **_size(job, outcome),
        SCALED: None,
        **scores,
        **calibration_fields(outcome),
        "seconds_fit": trained.seconds,
        **_energy(job.meter, scores["weighted_f1"]),
        **_transfer(job),
        **_per_unit(job.meter, len(outcome.models)),
        "train_flops": round(trained.flops),
        "too_short": trained.seconds < min_seconds,
        "cells_seen": trained.cells,
        "epsilon": None,
        "delta": None,
        "best_step": None,
        **outcome.record,
        **job.hooks.record(),
        **_machine(job),
    }


def _size(job: Job, outcome: Outcome) -> dict[str, Any]:
    return {
        "cells_train": sum(len(p.train) for p in outcome.parts),
        "cells_test": sum(len(p.test) for p in job.split.to_test(outcome.parts)),
        "genes": job.features.n_genes,
        "types": job.model.n_types,
        "clients": len(outcome.parts),
        "rounds": outcome.rounds,
        "local_epochs": outcome.local_epochs,
        "epochs": outcome.epochs,
        "batch_size": job.batch_size,
        "precision": job.reusable.precision,
        "parameters": sum(p.numel() for p in job.model.parameters()),
    }


def _energy(meter: EnergyMeter, f1: float) -> dict[str, Any]:
    trained, idle, transfer_kg = meter.trained(), meter.total(IDLE), meter.transfer()[1]
    without_ram_kg = (trained.energy_cpu_kwh + trained.energy_gpu_kwh) * meter.mean_intensity
    low_kg, high_kg = (meter.transfer(kwh)[1] for kwh in (LOW_NETWORK_KWH_PER_GB, HIGH_NETWORK_KWH_PER_GB))
    return {
        **{name: getattr(trained, name) for name in ENERGY},
        "eaps": eaps(f1, trained.emissions_kg + transfer_kg),
        "eaps_cpu": eaps(f1, without_ram_kg + transfer_kg),
        "eaps_low_network": eaps(f1, trained.emissions_kg + low_kg),
        "eaps_high_network": eaps(f1, trained.emissions_kg + high_kg),
        "idle_seconds": idle.seconds,
        "idle_energy_kwh": idle.energy_kwh,
        "idle_emissions_kg": idle.emissions_kg,
        "waiting_energy_kwh": meter.total(WAITING).energy_kwh,
    }


def _transfer(job: Job) -> dict[str, Any]:
    bytes_up, bytes_down = job.meter.moved()
    transfer_kwh, transfer_kg = job.meter.transfer()
    return {
        "energy_mode": job.meter.mode,
        "pue": job.meter.pue,
        "country": job.meter.intensity.country,
        "countries": job.meter.intensity.countries,
        "carbon_intensity_kg_per_kwh": job.meter.mean_intensity,
        "waited_hours": job.meter.intensity.clock.waited_hours,
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "transfer_kwh": transfer_kwh,
        "transfer_emissions_kg": transfer_kg,
        # Of these bytes, those before training: numbers of cells, and sums by gene.
        "bytes_prepare": sum(job.meter.moved(round=0)),
        # What these messages would have had more if all weights had travelled whole.
        "bytes_spared": job.meter.total(AGGREGATE).bytes_spared,
        # After training, and not among these bytes.
        "bytes_calibrate": job.meter.total(CALIBRATE).bytes_up + job.meter.total(CALIBRATE).bytes_down,
    }


def _per_unit(meter: EnergyMeter, n_models: int) -> dict[str, Any]:
    """Grams of CO2e per trained model, transfer included, and per thousand cells of those that were tested: functional
    units of SCI for AI, without the hardware's own (embodied) emissions."""
    tested = meter.total(TEST)
    return {
        "emissions_g_per_model": (meter.trained().emissions_kg + meter.transfer()[1]) * 1e3 / n_models,
        "emissions_g_per_1000_cells": tested.emissions_kg * 1e6 / tested.cells if tested.cells else None,
    }


def _machine(job: Job) -> dict[str, Any]:
    """Software and hardware, which can explain differences between runs."""
    packages = (*PACKAGES, *(package for hook in job.hooks for package in hook.packages))
    return {
        "versions": {package: version(package) for package in packages},
        "device": job.reusable.device,
        "threads": torch.get_num_threads(),
        "cores": psutil.cpu_count(),
        "load_at_start": job.meter.load_at_start,
        "processor": platform.processor() or platform.machine(),
        **of_slurm(),
    }
