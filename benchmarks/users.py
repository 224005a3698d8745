"""The default run beside what a user would write: a default Trainer for each fit, and Flower's Ray simulation."""

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import ROOT, Row, Usage, process
from benchmarks.setting import embedded

# Engine and trainer of benchmarks.user; how often; the most that ours should take of wall, CPU and memory.
OTHERS = [
    ("local", "default", 2, (None, None, None)),
    ("ray", "ours", 1, (0.4, 0.35, 0.5)),
    ("ray", "default", 1, (0.4, 0.35, 0.5)),
]


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    embedded(cache)  # prepared, so that none has to
    rounds = 1 if quick else 5
    ours = [whole(cache, "local", "ours", rounds) for _ in range(1 if quick else 3)]
    yield from of("ours", ours)
    for engine, trainer, repeats, targets in OTHERS:
        name = NAMES[engine, trainer]
        if engine == "ray" and (quick or importlib.util.find_spec("ray") is None):
            reason = "--quick" if quick else "ray is not installed: pip install -e '.[simulation]'"
            yield Row(name, note=f"skipped: {reason}")
            continue
        other = [whole(cache, engine, trainer, rounds) for _ in range(1 if quick else repeats)]
        yield from of(name, other)
        for column, target in zip(("wall", "cpu", "pss_mb"), targets, strict=True):
            yield Row(
                f"ours, {column} of the process",
                median(ours, column),
                UNITS[column],
                name,
                median(ours, column) / median(other, column),
                target,
            )
        alone = [federation(each) for each in (ours, other)]
        yield Row("ours, wall of the federation alone", alone[0], "s", name, alone[0] / alone[1], targets[0])


NAMES = {
    ("local", "default"): "default Trainer and loader",
    ("ray", "ours"): "our apps under Ray",
    ("ray", "default"): "default Trainer and loader under Ray",
}
UNITS = {"wall": "s", "cpu": "CPU s with children", "pss_mb": "MB (PSS) with children"}


def whole(cache: Path, engine: str, trainer: str, rounds: int) -> Usage:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    arguments = ("-m", "benchmarks.user", str(cache), engine, trainer, str(rounds))
    return process(*arguments, watch=True, timeout=300, env=environment)


def of(name: str, usages: list[Usage]) -> Iterator[Row]:
    for column, unit in UNITS.items():
        yield Row(f"{name}, {column} of the process", median(usages, column), unit)
    yield Row(f"{name}, wall of the federation alone", federation(usages), "s")


def median(usages: list[Usage], column: str) -> float:
    return float(np.median([getattr(usage, column) for usage in usages]))


def federation(usages: list[Usage]) -> float:
    return float(np.median([float(re.findall(r"@ federation ([\d.]+)", usage.output)[-1]) for usage in usages]))
