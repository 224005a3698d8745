"""What a killed federation goes on from: the state of any Flower strategy, and the sites that it had."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

from scfl_green.data.partition import ROLES
from scfl_green.errors import InputError, listed
from scfl_green.training.hooks import State
from scfl_green.training.job import Job


def federation_state(job: Job) -> State:
    """What makes it the same federation: the hash of what its sites agree on, and their cells by role."""
    parts = job.split.parts.items()
    return {"agreed": job.agreed, "cells": {name: [len(getattr(part, role)) for role in ROLES] for name, part in parts}}


def check_same(before: State, now: State) -> None:
    """InputError for a killed run that would go on with sites that have other cells, which only they can know."""
    if before == now:
        return
    then, here = before["cells"], now["cells"]
    changed = [name for name in sorted(then | here) if then.get(name) != here.get(name)]
    which = f" (other numbers of cells: {listed(changed)})" if changed else ""
    raise InputError(
        f"since this run was killed, sites have changed their cells, or the version of scfl-green{which}: it would go "
        "on with another federation; change that back, or begin anew: remove the folder checkpoints of the run"
    )


def strategy_state(strategy: Strategy) -> State:
    """The attributes of a strategy, and of any it wraps, by dotted names: numbers, text, and the arrays in records,
    dicts and lists."""
    encoded = ((name, _encoded(value)) for name, value in _attributes(strategy))
    return {name: value for name, value in encoded if value is not None}


def load_strategy_state(strategy: Strategy, state: State) -> None:
    """Restore the state of another strategy of the same class."""
    for name, value in state.items():
        *path, attribute = name.split(".")
        owner: Any = strategy
        for wrapped in path:
            owner = getattr(owner, wrapped)
        setattr(owner, attribute, _decoded(value))


def _attributes(strategy: Strategy, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy):
            yield from _attributes(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _encoded(value: Any) -> Any:
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, ArrayRecord):
        return {"record": {name: torch.from_numpy(array.numpy()) for name, array in value.items()}}
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        arrays = {k: torch.from_numpy(np.array(v)) for k, v in items if isinstance(v, np.ndarray | np.generic)}
        return {type(value).__name__: arrays} if arrays else None
    return None


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, tensors),) = value.items()
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if kind == "record":
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return list(arrays.values()) if kind == "list" else arrays
