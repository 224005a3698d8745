"""From the start of a process to its first training step, and what each further job of a sweep costs."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.measure import ROOT, Row, process

IMPORTS = "import torch, pytorch_lightning, flwr.app, flwr.clientapp, flwr.serverapp, flwr.serverapp.strategy, hydra"
TRAIN = str(ROOT / "train.py")
STEP = ["+callbacks.first_step._target_=benchmarks.first_step.FirstStep"]
JOBS = ["+hydra.callbacks.jobs._target_=benchmarks.first_step.Jobs", "++callbacks.first_step.stop=false"]
ONE_ROUND = ["logger=none", "federation.rounds=1", "federation.local_epochs=1"]
ABOVE_IMPORTS, WITHOUT_TORCH, FURTHER_JOB = 1.5, 1.0, 0.3


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    imports = "imports alone"
    with TemporaryDirectory() as folder:
        run = {"cwd": folder, "env": os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_paths()])}}
        prepared = str(Path(folder) / "cache")

        def first_step(cached: bool) -> float:
            """Seconds until the first training step; whatever was prepared in vain is thrown away."""
            started = time.time()
            kept = prepared if cached or quick else f"{prepared}-{started}"
            overrides = [*STEP, *ONE_ROUND, "+callbacks.first_step.stop=true", f"paths.cache={kept}"]
            return _times(process(TRAIN, *overrides, **run).output)["first step"][0] - started

        if not quick:
            first_step(True)
        ways = {
            imports: lambda: process("-c", IMPORTS, **run).wall,
            "first step, nothing prepared": lambda: first_step(False),
            "first step, data prepared": lambda: first_step(True),
            "train.py --help": lambda: process(TRAIN, "--help", **run).wall,
            "train.py --cfg job": lambda: process(TRAIN, "--cfg", "job", **run).wall,
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(1 if quick else 3):
            for name, way in ways.items():
                taken[name].append(way())
        median = {name: float(np.median(seconds)) for name, seconds in taken.items()}
        alone = median[imports]
        yield Row(f"{imports} (torch, Lightning, Flower, Hydra)", alone, "s")
        for name in list(ways)[1:3]:
            yield Row(name, median[name], "s", imports, median[name] / alone)
            yield Row(f"{name}: above the imports", median[name] - alone, "s", imports, target=ABOVE_IMPORTS)
        for name in list(ways)[3:]:
            yield Row(name, median[name], "s", target=WITHOUT_TORCH)
        yield from _sweep(2 if quick else 4, prepared, run)


def _sweep(jobs: int, prepared: str, run: dict[str, Any]) -> Iterator[Row]:
    """Seconds before the first step and after the last of the second and later jobs; all but the seed is as before."""
    seeds = ",".join(map(str, range(1, jobs + 1)))
    sweep = [*STEP, *JOBS, *ONE_ROUND, "split.seed=1", f"paths.cache={prepared}", "name=startup"]
    at = _times(process(TRAIN, "-m", f"seed={seeds}", *sweep, **run).output)
    before = np.subtract(at["first step"][1:], at["end"][:-1])
    last_fit = [max(fit for fit in at["fitted"] if fit <= end) for end in at["end"]]
    after = np.subtract(at["end"], last_fit)[1:]
    yield Row("a further job of a sweep, before its first step", float(np.median(before)), "s", target=FURTHER_JOB)
    yield Row("a further job of a sweep, after its last step", float(np.median(after)), "s")


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _times(output: str) -> dict[str, list[float]]:
    at: dict[str, list[float]] = {}
    for what, seconds in re.findall(r"^@ (.+) ([\d.]+)$", output, re.MULTILINE):
        at.setdefault(what, []).append(float(seconds))
    return at
