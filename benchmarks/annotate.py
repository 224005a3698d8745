"""Annotating made-up cells of an h5ad file, beside CellTypist's logistic regression on the same genes.

python -m benchmarks.annotate [CELLS [GENES]] (100,000 x 20,000): cells a second and peak memory. CellTypist runs in
the Python that CELLTYPIST names, an environment of its own: python -m venv E; E/bin/pip install celltypist;
CELLTYPIST=E/bin/python. Without it, scikit-learn predicts as CellTypist does.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import torch

from benchmarks.measure import ROOT, Row, Usage, process
from scfl_green.data.features.prepare import Preparation
from scfl_green.data.reading.matrix import shape
from scfl_green.data.seen import Seen
from scfl_green.data.sources import synthetic
from scfl_green.models.actinn import ACTINN
from scfl_green.training.trained_model import TrainedModel

MODEL_GENES, TYPES, MOST_MB, MOST_FOR_CELLTYPIST = 2000, 15, 1500, 200_000
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True}


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    yield from measured(*((2000, 3000) if quick else (100_000, 20_000)), cache, 1 if quick else 3)


def measured(n_cells: int, n_genes: int, cache: Path, repeats: int) -> Iterator[Row]:
    path, what = cache / f"annotate-{n_cells}x{n_genes}.h5ad", f"{n_cells:,} cells x {n_genes:,} genes"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        synthetic.write(path, cells=n_cells, genes=n_genes, types=TYPES, donors=4, depth=0.15 * n_genes, seed=0)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = partial(process, timeout=1800, env=environment)
    with TemporaryDirectory(dir=cache) as folder:
        save_model(Path(folder), n_genes)
        # It holds all features in a dense matrix, several times over.
        if n_cells <= MOST_FOR_CELLTYPIST:
            yield from beside_celltypist(what, path, folder, run, repeats)
        written = ["-m", "scfl_green", "annotate", folder, str(path), "-o", f"{folder}/out.h5ad"]
        whole = run(*written, cwd=folder)
        yield Row(f"{what}: scfl-green annotate, with all files", n_cells / whole.wall, "cells a second")
        yield Row(f"{what}: its memory", whole.rss_mb, "MB", f"{MOST_MB} MB", whole.rss_mb / MOST_MB, 1.0)


def beside_celltypist(what: str, path: Path, model: str, run: Callable[..., Usage], repeats: int) -> Iterator[Row]:
    """From the file to labels and probabilities, each way in a process of its own, in turn."""
    ours, others, python = [], [], os.environ.get("CELLTYPIST", sys.executable)
    for _ in range(repeats):
        ours.append(run("-m", "benchmarks.annotate", "ours", str(path), model))
        others.append(run(str(ROOT / "benchmarks/celltypist_way.py"), str(path), model, python=python))
    seconds, theirs = ([float(usage.output.split("@")[1]) for usage in usages] for usages in (ours, others))
    name, (n_cells, _) = others[0].output.split("@")[2].strip(), sizes(path)
    faster = float(np.median(np.divide(theirs, seconds)))
    rate, other = n_cells / float(np.median(seconds)), n_cells / float(np.median(theirs))
    yield Row(f"{what}: {name}", other, "cells a second")
    yield Row(f"{what}: annotate", rate, "cells a second", name, faster, 1.0, at_least=True)
    most, other_most = (max(usage.rss_mb for usage in usages) for usages in (ours, others))
    yield Row(f"{what}: {name}, memory", other_most, "MB")
    yield Row(f"{what}: annotate, memory", most, "MB", name, most / other_most)


def sizes(path: Path) -> tuple[int, int]:
    with h5py.File(path) as file:
        return shape(file["X"])


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
