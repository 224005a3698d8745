"""Checks of replies before averaging, so that one bad site cannot harm the others."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, Message

# Weights above this multiple of the largest that were sent have diverged, and would dominate the mean.
LARGEST_GROWTH = 1e4


@dataclass(frozen=True)
class Refusal:
    """A reply excluded from a round's mean."""

    round: int
    client: int
    reason: str


@dataclass(frozen=True)
class Expected:
    """The form that an array of a reply must have, that of the array sent: its data are ``header`` and ``n_bytes`` of
    values up to ``largest``."""

    shape: tuple[int, ...]
    dtype: str
    stype: str
    largest: float
    header: bytes
    n_bytes: int

    @classmethod
    def of(cls, sent: Array) -> "Expected":
        values = sent.numpy()
        largest = LARGEST_GROWTH * max(1.0, float(np.abs(values).max(initial=0)))
        header = sent.data[: len(sent.data) - values.nbytes]
        return cls(tuple(sent.shape), sent.dtype, sent.stype, largest, header, values.nbytes)


def train_flaw(reply: Message, expected: Mapping[str, Expected], most_cells: float) -> str | None:
    """Why a training reply cannot be averaged, None if it can; names and numbers only, no text of a client.

    ``expected`` are the forms of its arrays by name, ``most_cells`` the training cells that the client reported before.
    """
    if flaw := _record_flaw(reply, arrays=1):
        return flaw
    (arrays,) = reply.content.array_records.values()
    if set(arrays) != set(expected):
        return f"{len(arrays)} arrays, whose names differ from the {len(expected)} sent"
    for name, array in arrays.items():
        if flaw := _array_flaw(array, expected[name]):
            return f"{name}: {flaw}"
    return _cells_flaw(reply, "training", most_cells)


def evaluate_flaw(reply: Message, most_cells: float) -> str | None:
    """Why a validation reply cannot be averaged, None if it can; ``most_cells`` are the validation cells that the
    client reported before."""
    return _record_flaw(reply, arrays=0) or _cells_flaw(reply, "validation", most_cells)


def odd_metrics(replies: Iterable[Message]) -> dict[int, str]:
    """Flaws by node: valid replies whose metrics have other names than those of most replies."""
    names = {reply.metadata.src_node_id: tuple(sorted(_metrics(reply))) for reply in replies}
    usual = Counter(names.values()).most_common(1)[0][0] if names else ()
    return {node: "its metrics differ from other clients'" for node, found in names.items() if found != usual}


def _record_flaw(reply: Message, arrays: int) -> str | None:
    if reply.has_error():
        return f"error {reply.error.code}"
    content = reply.content
    if len(content.array_records) != arrays or len(content.metric_records) != 1:
        return f"{len(content.array_records)} records of arrays and {len(content.metric_records)} of metrics"
    metrics = _metrics(reply)
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            return f"metric {list(metrics).index(name) + 1} is not a finite number"
    if not metrics.get("num-examples", 0) > 0:
        return "no positive number of cells (num-examples)"
    return None


def _cells_flaw(reply: Message, role: str, most_cells: float) -> str | None:
    if (cells := _metrics(reply)["num-examples"]) > most_cells:
        return f"{cells:g} {role} cells, more than the {most_cells:g} reported before"
    return None


def _metrics(reply: Message) -> dict[str, Any]:
    (metrics,) = reply.content.metric_records.values()
    return dict(metrics)


def _array_flaw(array: Array, expected: Expected) -> str | None:
    """Why an array cannot be averaged; nothing is decoded, not even the header, before its form is verified."""
    if (tuple(array.shape), array.dtype, array.stype) != (expected.shape, expected.dtype, expected.stype):
        return f"{array.dtype} of shape {tuple(array.shape)}, where {expected.dtype} of {expected.shape} was sent"
    if not array.data.startswith(expected.header) or len(array.data) != len(expected.header) + expected.n_bytes:
        return "its header or size differs from that of the array sent"
    values = np.frombuffer(array.data, expected.dtype, offset=len(expected.header))
    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    if not math.isfinite(largest):
        return f"{int((~np.isfinite(values)).sum())} non-finite values"
    if largest > expected.largest:
        return f"values up to {largest:.3g}"
    return None
