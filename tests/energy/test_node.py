"""Energy on a node that other jobs share: a job is charged for its own CPU time, on SLURM and off it."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from scfl_green.energy import node
from scfl_green.energy.meter import EnergyMeter

WATTS = 80.0


def spin(cpu_seconds: float) -> float:
    """Use CPU time, and say how much exactly."""
    begin = time.process_time()
    while (used := time.process_time() - begin) < cpu_seconds:
        pass
    return used


def watts_per_thread() -> float:
    """What a second of CPU time is charged with: the least of three, since reading the meter takes some, too."""
    return min(_watts() for _ in range(3))


def _watts() -> float:
    meter = EnergyMeter("DEU", cpu_watts=WATTS)
    with meter.phase("fit"):
        used = spin(0.8)
    meter.read()
    kwh = meter.total("fit").energy_cpu_kwh
    meter.close()
    return kwh * 3.6e6 / used


def test_neighbours_do_not_change_the_energy_of_the_same_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node.SHARED, "1")
    alone = watts_per_thread()
    # Nobody's children once their shell has ended: those of this process are its workers and loggers.
    subprocess.run(["sh", "-c", "for n in 1 2 3; do timeout 8 sh -c 'while :; do :; done' & done"], check=True)
    beside = watts_per_thread()
    assert alone == pytest.approx(WATTS / psutil.cpu_count(), rel=0.05)
    assert beside == pytest.approx(alone, rel=0.05)


def test_a_node_is_shared_where_slurm_gave_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(node.SHARED, raising=False)
    for cpus, shared in (("", False), (str(psutil.cpu_count()), False), ("0", True)):
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", cpus)
        assert node.shared() is shared


def test_codecarbon_does_not_divide_by_the_cpus_of_a_slurm_job() -> None:
    """It would charge a job of one CPU for the power of the whole processor."""
    program = (
        "from codecarbon.core import util; util.SLURM_JOB_ID or exit(3)\n"
        "import scfl_green.energy.hardware, psutil\n"
        "exit(util.count_cpus() != psutil.cpu_count())"
    )
    environment = {"SLURM_JOB_ID": "7", "PATH": "/nowhere", "PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=120).returncode == 0


@pytest.mark.parametrize(("told", "kwh"), [("3600000", 1.0), ("0", None), ("", None), ("nonsense", None)])
def test_the_clusters_own_count_stands_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, kwh: float | None
) -> None:
    assert node.of_slurm() == {}
    # A cluster that counts energy is not to be had here: its program, and what it prints.
    (tmp_path / "sstat").write_text(f'#!/bin/sh\n[ "$4" = --jobs=7.0 ] && echo {told}\n')
    (tmp_path / "sstat").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_CPUS_ON_NODE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert node.of_slurm() == {"slurm_job_id": "7", "slurm_cpus": 2, "slurm_energy_kwh": kwh}
