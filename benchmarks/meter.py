"""What the energy meter costs, and how far busy neighbours and loggers move what it reads.

python -m benchmarks.meter: medians of interleaved repeats.
"""

import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from flwr.serverapp.strategy import FedAvg

from benchmarks.measure import ROOT
from scfl_green.data.clients import by_client
from scfl_green.data.dataset import Recipe, prepare
from scfl_green.data.features.prepare import between_within
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources.local import packaged
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.federation import Federation
from scfl_green.models.actinn import ACTINN
from scfl_green.training.job import Job

BUSY = f"{sys.executable} -c 'while True: pass' >/dev/null & echo $!"
REPEATS = 5


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def drift(meter: EnergyMeter) -> None:
    joules: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for repeat in range(REPEATS):
        for neighbours, read in joules.items():
            # In the background of a shell that has ended: children of this process would count.
            pids = [int(subprocess.check_output(["sh", "-c", BUSY], text=True)) for _ in range(neighbours)]
            meter.read()
            with meter.phase("fit", repeat, str(neighbours)):
                work(1.0)
            meter.read()
            read.append(meter.entries["fit", repeat, str(neighbours)].energy_kwh * 3.6e6)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
    alone = float(np.median(joules[0]))
    print("| busy neighbours | J for one CPU second | against alone |\n|---|---|---|")
    for neighbours, read in joules.items():
        print(f"| {neighbours} | {np.median(read):.2f} | {np.median(read) / alone - 1:+.0%} |")


def cost(meter: EnergyMeter) -> None:
    """The share of a federated run's training that is spent in the meter's own methods."""
    spent = 0.0

    def timed(name: str) -> None:
        method = getattr(meter, name)

        def call(*args: object) -> None:
            nonlocal spent
            start = time.perf_counter()
            method(*args)
            spent += time.perf_counter() - start

        setattr(meter, name, call)

    for name in ("_charge", "read"):
        timed(name)
    cells = Cells.read(packaged("pancreas"), Reading("cell_type", "Dataset"))
    split = by_client(cells, test="cells", test_share=0.2, validation=0.1, newcomers=0, seed=0)
    with TemporaryDirectory() as folder:
        choose = partial(between_within, n_genes=2000)
        dataset = prepare(cells, split, Path(folder) / "prepared", Recipe(choose))
        model = ACTINN(n_genes=2000, n_types=len(cells.types), optimizer=partial(torch.optim.Adam, lr=1e-3))
        trainer = partial(pl.Trainer, accelerator="cpu", devices=1)
        job = Job(model, dataset.features, split, trainer, meter, 32, 0)
        job.warm_up()
        spent, start = 0.0, time.perf_counter()
        strategy = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        Federation(strategy, rounds=5, local_epochs=3).train(job, list(split.clients.values()))
        whole = time.perf_counter() - start
    print(f"\nthe default run's five rounds: {spent / whole:.2%} of their time in the meter")


def loggers() -> None:
    """CPU seconds charged to training with each logger, against none."""
    names = sorted(path.stem for path in (ROOT / "configs/logger").glob("*.yaml"))
    print("\n| CPU seconds of training, against no logger | federated | central |\n|---|---|---|")
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(REPEATS):
        for name, regime in product(names, ("federated", "central")):
            seconds.setdefault((name, regime), []).append(fitted(f"logger={name}", f"regime={regime}"))
    medians = {key: float(np.median(values)) for key, values in seconds.items()}
    for name in names:
        ratios = [medians[name, regime] / medians["none", regime] - 1 for regime in ("federated", "central")]
        print(f"| {name} | {ratios[0]:+.1%} | {ratios[1]:+.1%} |")


def fitted(*overrides: str) -> float:
    """CPU seconds that a run of its own charges to training."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), *overrides, "federation.rounds=10"]
        environment = {**os.environ, "WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        (table,) = Path(folder).glob("logs/runs/*/energy.csv")
        return float(pd.read_csv(table).query("phase == 'fit'")["cpu_seconds"].sum())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    shared_meter = EnergyMeter("DEU")
    drift(shared_meter)
    cost(shared_meter)
    shared_meter.close()
    loggers()
