"""Other tools beside ours on the same cells: accuracy, CPU seconds and emissions of central training on the pancreas.

python -m benchmarks.peers [--seeds N] (3), in an environment of its own, which has CellTypist and scvi-tools, too:

python -m venv E && E/bin/pip install -c constraints.txt -e .
E/bin/pip install -c constraints-peers.txt celltypist scvi-tools && E/bin/python -m benchmarks.peers

Each training is a process of its own, on one thread of the CPU. All train on the pooled training cells of the default
split (ours choose their epoch by its validation cells, which the others do not use). The same code scores them on the
same test cells, and the same meter measures them: training alone, not reading cells, normalising and choosing genes.
What is not installed is left out.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

from benchmarks.measure import ROOT, process
from benchmarks.peer_methods import Task, celltypist, logistic_regression, ours, scanvi
from benchmarks.setting import composed, embedded, quiet
from scfl_green.data.partition import Part
from scfl_green.energy.eaps import eaps
from scfl_green.models.scores import prediction_scores
from scfl_green.runs.run import metered


@dataclass(frozen=True)
class Method:
    """How it is trained, the package it needs, the model of a run (for ours), and how many seeds are enough."""

    train: Callable[[Task], torch.Tensor]
    package: str = "torch"
    model: str = "linear"
    most_seeds: int | None = None


METHODS = {
    "ours, linear": Method(ours),
    "ours, ACTINN": Method(ours, model="actinn"),
    "logistic regression (scikit-learn)": Method(logistic_regression, "sklearn"),
    "the same, standardised": Method(partial(logistic_regression, standardised=True), "sklearn"),
    "CellTypist": Method(celltypist, "celltypist"),
    "scANVI": Method(scanvi, "scvi", most_seeds=1),  # which takes minutes
}
COLUMNS = {
    "accuracy": ("accuracy", ".3f"),
    "macro_f1": ("macro F1", ".3f"),
    "balanced_accuracy": ("balanced accuracy", ".3f"),
    "cpu_seconds": ("CPU s", ".2f"),
    "grams": ("g CO2e", ".5f"),
    "eaps": ("EAPS", ",.0f"),
}


def measured(name: str, seed: int, cache: Path) -> dict[str, Any]:
    """The scores of one method on test cells, and what its training took."""
    cfg = composed("regime=central", f"seed={seed}", f"model={METHODS[name].model}")
    dataset = embedded(cache, f"seed={seed}")
    pooled = Part.pooled(list(dataset.split.clients.values()))
    with metered(cfg) as meter:
        logits = METHODS[name].train(Task(cfg, dataset, pooled.train, pooled.test, meter))
        meter.read()
        used = meter.trained()
    scores = prediction_scores(logits, torch.from_numpy(dataset.features.labels[pooled.test]))
    scores["eaps"] = eaps(scores["weighted_f1"], used.emissions_kg)
    del scores["calibration_error"]  # not all give probabilities
    return {"method": name, "seed": seed, **scores, "cpu_seconds": used.cpu_seconds, "grams": used.emissions_kg * 1e3}


def apart(name: str, seed: int, cache: Path) -> dict[str, Any]:
    """The same by a process of its own, so that no method pays for the memory or the threads of another."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    arguments = ("-m", "benchmarks.peers", "--only", name, str(seed), str(cache))
    used = process(*arguments, timeout=3600, env=environment)
    (row,) = re.findall("^@ (.*)$", used.output, re.MULTILINE)
    return json.loads(row)


def table(found: pd.DataFrame) -> str:
    """Mean ± standard deviation over ``n`` seeds, in Markdown."""
    titles = ["method", "n", *(title for title, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, of in found.groupby("method", sort=False):
        spread = {c: f" ± {of[c].std():{form}}" if len(of) > 1 else "" for c, (_, form) in COLUMNS.items()}
        shown = [f"{of[c].mean():{form}}{spread[c]}" for c, (_, form) in COLUMNS.items()]
        lines.append(f"| {name} | {len(of)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def rows(seeds: int, cache: Path) -> Iterator[dict[str, Any]]:
    for seed in range(1, seeds + 1):
        for name, method in METHODS.items():
            if importlib.util.find_spec(method.package) and seed <= (method.most_seeds or seeds):
                yield apart(name, seed, cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("logs/benchmarks/peers.csv"))
    parser.add_argument("--only", nargs=3, metavar=("METHOD", "SEED", "CACHE"), help="one training, as a line of JSON")
    arguments = parser.parse_args()
    if arguments.only:
        quiet()
        name, seed, cache = arguments.only
        return print("@ " + json.dumps(measured(name, int(seed), Path(cache))))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    with TemporaryDirectory() as cache:
        for row in rows(arguments.seeds, Path(cache)):
            found.append(row)
            pd.DataFrame(found).to_csv(arguments.out, index=False)  # what is there if this is interrupted
    print(table(pd.DataFrame(found)))
    if missing := METHODS.keys() - {row["method"] for row in found}:
        print(f"left out, since they are not installed: {', '.join(sorted(missing))}", file=sys.stderr)


if __name__ == "__main__":
    main()
