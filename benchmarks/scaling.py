"""Seconds of a federation against clients, rounds, cells and genes, and the slope of their logarithms: 1 is linear."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, interleaved
from benchmarks.setting import first_clients, made_up, setting
from scfl_green.data.dataset import Dataset
from scfl_green.data.features.datamodule import Features

# Of what is noise; a quadratic cost would show as 2.
TARGET = 1.1


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    whole = made_up(cache, 1000, 200, 20) if quick else made_up(cache, 20_000, 2000, 200)
    few = first_clients(whole, 10)
    most, steps = len(whole.split.clients), (2, 10) if quick else (2, 20, 100)
    seconds = {
        "clients": {n: _seconds(first_clients(whole, n), 1) for n in (*steps, most)},
        "rounds": {n: _seconds(few, n) for n in ((1, 4) if quick else (2, 8, 32))},
        "cells": {n: _seconds(_pooled(whole, n), 1) for n in ((100, 400) if quick else (1000, 4000, 14_000))},
        "genes": {n: _seconds(_genes(few, n), 3) for n in ((50, 200) if quick else (250, 500, 1000, 2000))},
    }
    for what, taken in seconds.items():
        for n, value in taken.items():
            yield Row(f"{n:,} {what}", value, "CPU s", f"{min(taken):,} {what}", value / taken[min(taken)])
        yield Row(f"slope by {what}", _slope(list(taken), list(taken.values())), "", "linear", target=TARGET)


def _seconds(dataset: Dataset, rounds: int) -> float:
    with setting(dataset, f"federation.rounds={rounds}", "federation.local_epochs=1") as ours:
        return interleaved({"": ours.run}, 2)[""].median("cpu")


def _pooled(dataset: Dataset, n_cells: int) -> Dataset:
    """One client with so many training cells."""
    first, *_ = dataset.split.clients.values()
    rows = np.concatenate([part.train for part in dataset.split.clients.values()])[:n_cells]
    return replace(dataset, split=replace(dataset.split, clients={first.name: replace(first, train=rows)}))


def _genes(dataset: Dataset, n_genes: int) -> Dataset:
    of = dataset.features
    return replace(dataset, features=Features(of.values[:, :n_genes].tocsr(), of.floor[:n_genes], of.labels))


def _slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
