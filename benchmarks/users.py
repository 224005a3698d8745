"""The default run beside what a user would write: a default Trainer for each fit, and Flower's Ray simulation."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import ROOT, Row, Usage, process
from benchmarks.setting import embedded

# Engine and trainer of benchmarks.user; how often; the most that ours should take of what is MEASURED.
OTHERS = [
    ("local", "default", 2, (None, None, None, None)),
    ("ray", "ours", 1, (0.4, 0.35, 0.5, 0.4)),
    ("ray", "default", 1, (0.4, 0.35, 0.5, 0.4)),
]


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    embedded(cache)  # prepared, so that none has to
    rounds = 1 if quick else 5
    for engine, trainer, repeats, targets in OTHERS:
        name = NAMES[engine, trainer]
        if engine == "ray" and (quick or importlib.util.find_spec("ray") is None):
            reason = "--quick" if quick else "ray is not installed: pip install -e '.[simulation]'"
            yield Row(name, note=f"skipped: {reason}")
            continue
        ours, other = [], []
        for _ in range(1 if quick else repeats):
            ours.append(whole(cache, "local", "ours", rounds))
            other.append(whole(cache, engine, trainer, rounds))
        for (what, (unit, value)), target in zip(MEASURED.items(), targets, strict=True):
            mine, theirs = [np.array([value(usage) for usage in usages]) for usages in (ours, other)]
            yield Row(f"{name}, {what}", float(np.median(theirs)), unit)
            yield Row(f"ours, {what}", float(np.median(mine)), unit, name, float(np.median(mine / theirs)), target)


NAMES = {
    ("local", "default"): "default Trainer and loader",
    ("ray", "ours"): "our apps under Ray",
    ("ray", "default"): "default Trainer and loader under Ray",
}


def whole(cache: Path, engine: str, trainer: str, rounds: int) -> Usage:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    arguments = ("-m", "benchmarks.user", str(cache), engine, trainer, str(rounds))
    return process(*arguments, watch=True, timeout=300, env=environment)


def federation(usage: Usage) -> float:
    return float(re.findall(r"@ federation ([\d.]+)", usage.output)[-1])


MEASURED: dict[str, tuple[str, Callable[[Usage], float]]] = {
    "wall of the process": ("s", lambda usage: usage.wall),
    "CPU of the process": ("CPU s with children", lambda usage: usage.cpu),
    "memory": ("MB (PSS) with children", lambda usage: usage.pss_mb),
    "wall of the federation alone": ("s", federation),
}
