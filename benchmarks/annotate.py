"""Annotating made-up cells of an h5ad file, beside CellTypist's logistic regression on the same genes.

python -m benchmarks.annotate [CELLS [GENES]] (100,000 x 20,000): cells a second and peak memory. CellTypist runs in
the Python that CELLTYPIST names, an environment of its own: python -m venv E; E/bin/pip install celltypist;
CELLTYPIST=E/bin/python. Without it, scikit-learn predicts as CellTypist does.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.measure import ROOT, Row, process
from scfl_green.data.features.prepare import Preparation
from scfl_green.data.seen import Seen
from scfl_green.data.sources import synthetic
from scfl_green.models.actinn import ACTINN
from scfl_green.training.trained_model import TrainedModel

MODEL_GENES, TYPES, MOST_MB = 2000, 15, 1500
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True}


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    yield from measured(*((2000, 3000) if quick else (100_000, 20_000)), cache, 1 if quick else 3)


def measured(n_cells: int, n_genes: int, cache: Path, repeats: int) -> Iterator[Row]:
    path = cache / f"annotate-{n_cells}x{n_genes}.h5ad"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        synthetic.write(path, cells=n_cells, genes=n_genes, types=TYPES, donors=4, depth=3000, seed=0)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ours, others = [], []
    with TemporaryDirectory(dir=cache) as folder:
        save_model(Path(folder), n_genes)
        run = partial(process, timeout=1800, env=environment)
        for _ in range(repeats):
            ours.append(run("-m", "benchmarks.annotate", "ours", str(path), folder))
            python = os.environ.get("CELLTYPIST", sys.executable)
            others.append(run(str(ROOT / "benchmarks/celltypist_way.py"), str(path), folder, python=python))
    seconds, theirs = ([float(usage.output.split("@")[1]) for usage in usages] for usages in (ours, others))
    name, what = others[0].output.split("@")[2].strip(), f"{n_cells:,} cells x {n_genes:,} genes"
    yield Row(f"{what}: {name}", n_cells / float(np.median(theirs)), "cells a second")
    yield Row(f"{what}: {name}, memory", max(usage.rss_mb for usage in others), "MB")
    faster = float(np.median(np.divide(theirs, seconds)))
    yield Row(
        f"{what}: annotate", n_cells / float(np.median(seconds)), "cells a second", name, faster, 1.0, at_least=True
    )
    most = max(usage.rss_mb for usage in ours)
    yield Row(f"{what}: annotate, memory", most, "MB", f"{MOST_MB} MB", most / MOST_MB, 1.0)


def save_model(folder: Path, n_genes: int) -> None:
    """A model that nobody has trained: the work of its prediction is that of any."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(n_genes, min(MODEL_GENES, n_genes), replace=False)
    genes = np.array([f"gene{number}" for number in chosen], dtype=object)
    mean = rng.random(len(genes), dtype=np.float32)
    preparation = Preparation(genes, genes, mean, mean + 1)
    types = tuple(f"type {number:02}" for number in range(1, TYPES + 1))
    config = {"_target_": "scfl_green.models.ACTINN", "optimizer": ADAM}
    network = ACTINN(n_genes=len(genes), n_types=TYPES, optimizer=torch.optim.Adam)
    seen = Seen(frozenset(), [], np.zeros(0, dtype=bool))
    TrainedModel(config, network.state_dict(), preparation, types, seen).save(folder)


def ours(path: Path, model: str) -> None:
    """From the file to labels and probabilities; imports are not timed, there as here."""
    import anndata  # noqa: F401

    from scfl_green.energy.hardware import detect_hardware
    from scfl_green.share.cells import NewCells
    from scfl_green.share.model import Model
    from scfl_green.share.options import Options

    detect_hardware("DEU", None, None)
    loaded = Model.load(model)
    start = time.perf_counter()
    annotation = loaded.annotation(NewCells.of_file(path, None, None, True), Options())
    print(f"@ {time.perf_counter() - start:.3f} @ {annotation.obs['label'].nunique()} types")


def main() -> None:
    if sys.argv[1:2] == ["ours"]:
        return ours(Path(sys.argv[2]), sys.argv[3])
    n_cells, n_genes = (*map(int, sys.argv[1:]), *(100_000, 20_000)[len(sys.argv) - 1 :])
    for row in measured(n_cells, n_genes, Path("logs/benchmarks/cache").absolute(), 3):
        print(json.dumps(row.to_json("annotate")), flush=True)


if __name__ == "__main__":
    main()
