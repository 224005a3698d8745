"""The state of a federation in a checkpoint: after each round in, at the next start out."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save

from scfl_green.federated.checks import Refusal
from scfl_green.federated.strategy import Repeatable
from scfl_green.training.checkpoint import Checkpoint

WEIGHTS, BEST, STRATEGY = "weights.safetensors", "best.safetensors", "strategy.safetensors"
FEDERATION = "federation"


def keep_round(
    checkpoint: Checkpoint, repeatable: Repeatable, arrays: ArrayRecord, best: tuple[float, ArrayRecord] | None
) -> None:
    """Put a finished round into a checkpoint: its weights, the best ones where they count, and the strategy's state."""
    checkpoint.files[WEIGHTS] = save(dict(arrays.to_torch_state_dict()))
    if best is not None:
        checkpoint.files[BEST] = save(dict(best[1].to_torch_state_dict()))
    held = dict(_attributes(repeatable.strategy))
    checkpoint.files[STRATEGY] = save_arrays(flat := dict(_flat(held)))
    checkpoint.state[FEDERATION] = {
        "best": best and best[0],
        # Some strategies go by the order of arrays, which safetensors does not keep.
        "names": list(arrays),
        "names_of_strategy": list(flat),
        "cells": list(repeatable.cells.items()),
        "clients_by_round": list(repeatable.clients_by_round.items()),
        "refused": [vars(refusal) for refusal in repeatable.refused],
        "strategy": {name: value for name, value in held.items() if isinstance(value, int | float | str)},
    }


def take_up(checkpoint: Checkpoint, repeatable: Repeatable) -> tuple[ArrayRecord, tuple[float, ArrayRecord]] | None:
    """Set a strategy to go on after the round of a checkpoint; its weights and the best ones, None where there are
    none."""
    if not checkpoint.begun:
        return None
    state: dict[str, Any] = checkpoint.state[FEDERATION]
    repeatable.cells = dict(state["cells"])
    repeatable.clients_by_round = dict(state["clients_by_round"])
    repeatable.refused = [Refusal(**refusal) for refusal in state["refused"]]
    repeatable.done = max(repeatable.clients_by_round)
    stored = load_arrays(checkpoint.files[STRATEGY])
    held = _unflat({name: stored[name] for name in state["names_of_strategy"]}) | state["strategy"]
    for name, value in held.items():
        *outer, own = name.split(".")
        strategy: Any = repeatable.strategy
        for attribute in outer:
            strategy = getattr(strategy, attribute)
        setattr(strategy, own, value)
    last = _record(checkpoint.files[WEIGHTS], state["names"])
    if BEST not in checkpoint.files:
        return last, (-1.0, last)
    return last, (state["best"], _record(checkpoint.files[BEST], state["names"]))


def _record(stored: bytes, names: list[str]) -> ArrayRecord:
    weights = load(stored)
    return ArrayRecord({name: weights[name] for name in names})


def _attributes(strategy: Strategy, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a strategy holds, and what one holds that it wraps, by dotted names."""
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy):
            yield from _attributes(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _flat(held: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of what a strategy holds in records, dicts and lists."""
    for name, value in held.items():
        if isinstance(value, ArrayRecord):
            yield from ((f"{name}/record/{key}", array.numpy()) for key, array in value.items())
        elif isinstance(value, dict | list):
            kind = type(value).__name__
            for key, array in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(array, np.ndarray | np.generic):
                    yield f"{name}/{kind}/{key}", np.asarray(array, order="C")


def _unflat(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for path, array in arrays.items():
        name, kinds[name], key = path.split("/", 2)
        held.setdefault(name, {})[key] = array
    made: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {
        "record": lambda found: ArrayRecord({key: Array(array) for key, array in found.items()}),
        "dict": dict,
        "list": lambda found: [found[str(i)] for i in range(len(found))],
    }
    return {name: made[kinds[name]](found) for name, found in held.items()}
