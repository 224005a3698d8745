"""The node of a cluster that a run is on, and whether it shares it with other jobs."""

import os
import subprocess
from typing import Any

import psutil

# Set by launchers that run the jobs of a sweep side by side.
SHARED = "SCFL_SHARED_NODE"
JOULES_PER_KWH = 3.6e6
SECONDS_FOR_SSTAT = 30


def shared() -> bool:
    """Whether other jobs may run on this node: by what SLURM gave to this one, or by its launcher."""
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return SHARED in os.environ or (cpus.isdecimal() and int(cpus) < (psutil.cpu_count() or 1))


def of_slurm() -> dict[str, Any]:
    """What the record of a run says of its SLURM job: number, CPUs, and the energy that the cluster counted for
    this step so far (``ConsumedEnergy``: the whole node's meanwhile, None if it counts none). Empty elsewhere."""
    if not (job := os.environ.get("SLURM_JOB_ID")):
        return {}
    return {
        "slurm_job_id": job,
        "slurm_cpus": int(os.environ.get("SLURM_CPUS_ON_NODE", 0)) or None,
        "slurm_energy_kwh": _consumed(f"{job}.{os.environ.get('SLURM_STEP_ID', 'batch')}"),
    }


def _consumed(step: str) -> float | None:
    """kWh of a running step; ``sacct`` knows those that have ended alone."""
    command = ["sstat", "--noheader", "--parsable2", "--format=ConsumedEnergyRaw", f"--jobs={step}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_FOR_SSTAT).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return int(told) / JOULES_PER_KWH if told.isdecimal() and int(told) else None
