"""How well cells of a type that was left out of training are told from the others: python -m benchmarks.novelty

Every type of the embedded pancreas and of pbmc3k.h5ad (in the folder SCFL_DATA) is left out in turn. AUROC of the
novelty score, and of a logistic regression's largest probability on the same features, for the cells of that type
against test cells of the others; means over seeds 1 to --seeds. No network is trained: the score is one of genes.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import reduce
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from torch import Tensor

from benchmarks.setting import composed, quiet
from scfl_green.data.dataset import Dataset, Recipe, prepare
from scfl_green.data.partition import Part
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.models.novelty import ProfileSums
from scfl_green.runs.names import register_resolvers

DATA = {
    "pancreas": ["data=pancreas"],
    "pbmc3k": ["data=h5ad", "data.path=pbmc3k.h5ad", "data.client_key=null", "split=iid", "split.clients=4"],
}
ALPHA = 0.05


def without(cells: Cells, label: int) -> tuple[Cells, Cells]:
    """The cells of the other types, which are all there is to know, and those of this one."""
    types = tuple(name for i, name in enumerate(cells.types) if i != label)
    known, new = cells.labels != label, cells.labels == label
    taken = [
        {name: getattr(cells, name)[rows] for name in ("counts", "labels", "clients", "donors")}
        for rows in (known, new)
    ]
    taken[0]["labels"] = taken[0]["labels"] - (taken[0]["labels"] > label)
    return replace(cells, types=types, **taken[0]), replace(cells, **taken[1])


def profile_sums(dataset: Dataset) -> ProfileSums:
    """The sums of all clients, as a federation adds them up."""

    def of(part: Part) -> ProfileSums:
        sums = ProfileSums.zeros(len(dataset.types), dataset.features.n_genes)
        sums.add(*dataset.features.batch(part.train))
        return sums

    return reduce(add, map(of, dataset.split.clients.values()))


def auroc(known: np.ndarray, new: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([0, 1], [len(known), len(new)]), np.concatenate([known, new])))


def measured(cells: Cells, label: int, cfg: Any, folder: Path) -> dict[str, float]:
    """The AUROC of both scores for one type, and the share of its cells with a p-value below ``ALPHA``."""
    from sklearn.linear_model import LogisticRegression

    known, new = without(cells, label)
    split = instantiate(cfg.split, _partial_=True, _convert_="all")(known)
    dataset = prepare(known, split, folder, Recipe(instantiate(cfg.genes), cfg.data.standardise))
    part = Part.pooled(list(split.clients.values()))
    (x, y), (tested, _), (validation, _) = (
        dataset.features.batch(rows) for rows in (part.train, part.test, part.validation)
    )
    blocks = [block.toarray() + dataset.preparation.floor for block in dataset.preparation.apply(new)]
    unknown, sums = torch.from_numpy(np.concatenate(blocks).astype(np.float32)), profile_sums(dataset)
    classifier = LogisticRegression(max_iter=300).fit(x.numpy(), y.numpy())

    def doubt(features: Tensor) -> np.ndarray:
        return -np.asarray(classifier.predict_proba(features.numpy()).max(axis=1))

    alike = sums.novelty(validation).sort().values
    novelty = sums.novelty(unknown)
    p = (1 + len(alike) - torch.searchsorted(alike, novelty)) / (1 + len(alike))
    return {
        "novelty": auroc(sums.novelty(tested).numpy(), novelty.numpy()),
        "logistic": auroc(doubt(tested), doubt(unknown)),
        "found": float((p < ALPHA).double().mean()),
        "cells": len(unknown),
    }


def rows(seeds: range, cache: Path) -> Iterator[dict[str, Any]]:
    for data, overrides in DATA.items():
        for seed in seeds:
            cfg = composed(*overrides, f"seed={seed}")
            reading = {field.name: cfg.data[field.name] for field in fields(Reading) if field.name in cfg.data}
            paths = instantiate(cfg.data.source, _partial_=True, _convert_="all")()
            cells = Cells.read(paths, Reading(**reading | {"preprocess": True}))
            for label, name in enumerate(cells.types):
                folder = cache / f"{data}-{seed}-{label}"
                yield {"data": data, "type": name, "seed": seed, **measured(cells, label, cfg, folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("logs/benchmarks/novelty.csv"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    with TemporaryDirectory() as cache:
        for row in rows(range(1, arguments.seeds + 1), Path(cache)):
            found.append(row)
            pd.DataFrame(found).to_csv(arguments.out, index=False)  # what is there if this is interrupted
    of = pd.DataFrame(found).drop(columns="seed")
    print(f"| type left out | cells | AUROC of novelty | of logistic regression | found at alpha {ALPHA:g} |")
    print("|---|---|---|---|---|")
    for data, of_data in of.groupby("data", sort=False):
        by_type = of_data.groupby("type").mean(numeric_only=True)
        for name, row in [*by_type.iterrows(), (f"**{data}, mean**", by_type.mean())]:
            shown = "" if str(name).startswith("**") else f"{row['cells']:.0f}"
            print(f"| {name} | {shown} | {row['novelty']:.3f} | {row['logistic']:.3f} | {row['found']:.0%} |")


if __name__ == "__main__":
    if importlib.util.find_spec("sklearn") is None:
        sys.exit("error: the reference is scikit-learn's: pip install -c constraints.txt -e '.[benchmarks]'")
    register_resolvers()
    quiet()
    main()
