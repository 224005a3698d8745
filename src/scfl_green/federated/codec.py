"""Codecs: the change of weights in fewer bytes than the weights.

What travels is the difference to weights that both sides hold. Matrices are coded; vectors (biases) and integers travel
exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from flwr.app import Array, ArrayRecord
from pydantic import Field

from scfl_green.bounds import Fraction

# Between the name of an array and that of a part of its code.
OF = "|"
Parts = dict[str, np.ndarray]
Forms = dict[str, tuple[tuple[int, ...], str]]
Arrays = Mapping[str, np.ndarray]


@runtime_checkable
class Codec(Protocol):
    """Codes the change of one matrix (float32)."""

    def forms(self, shape: tuple[int, ...]) -> Forms:
        """Shape and dtype of each part of the code of an array."""

    def encode(self, change: np.ndarray, rng: np.random.Generator) -> Parts: ...

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> np.ndarray:
        """The change, approximately; ValueError for a code that ``encode`` cannot have made."""


@dataclass(frozen=True)
class Half:
    """16-bit floats."""

    def forms(self, shape: tuple[int, ...]) -> Forms:
        return {"half": (shape, "float16")}

    def encode(self, change: np.ndarray, rng: np.random.Generator) -> Parts:
        return {"half": change.astype(np.float16)}

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> np.ndarray:
        return _finite(parts["half"]).astype(np.float32)


@dataclass(frozen=True)
class Rows:
    """Whole numbers of 8 or 4 bits with a scale for each output row, rounded at random so that their mean is exact.

    Alistarh et al. 2017 (NeurIPS, "QSGD: Communication-Efficient SGD via Gradient Quantization"), section 3.1, with the
    largest magnitude as norm.
    """

    bits: Annotated[int, Field(multiple_of=4, ge=4, le=8)]

    @property
    def top(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def forms(self, shape: tuple[int, ...]) -> Forms:
        n_bytes = -(-int(np.prod(shape)) * self.bits // 8)
        return {"codes": ((n_bytes,), "uint8"), "scales": ((shape[0],), "float32")}

    def encode(self, change: np.ndarray, rng: np.random.Generator) -> Parts:
        rows = change.reshape(len(change), -1)
        scales = (np.abs(rows).max(axis=1, initial=0) / self.top).astype(np.float32)
        scaled = rows / np.where(scales > 0, scales, 1)[:, None]
        drawn = np.floor(scaled + rng.random(rows.shape, dtype=np.float32))
        codes = (np.clip(drawn, -self.top, self.top) + self.top + 1).astype(np.uint8).ravel()
        return {"codes": _packed(codes) if self.bits == 4 else codes, "scales": scales}

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> np.ndarray:
        codes, scales = parts["codes"], _finite(parts["scales"])
        if (scales < 0).any():
            raise ValueError("negative scales")
        if self.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=1).ravel()[: int(np.prod(shape))]
        values = codes.astype(np.float32) - (self.top + 1)
        return (values.reshape(shape[0], -1) * scales[:, None]).reshape(shape)


def _packed(codes: np.ndarray) -> np.ndarray:
    """Two codes of 4 bits in each byte."""
    pairs = np.pad(codes, (0, len(codes) % 2)).reshape(-1, 2)
    return np.asarray(pairs[:, 0] | pairs[:, 1] << 4)


@dataclass(frozen=True)
class Largest:
    """The ``share`` of entries of largest magnitude, in 8 bits; the others are sent later, when they have grown.

    Aji and Heafield 2017 (EMNLP, "Sparse Communication for Distributed Gradient Descent").
    """

    share: Fraction

    def forms(self, shape: tuple[int, ...]) -> Forms:
        n = max(1, round(self.share * int(np.prod(shape))))
        return {"places": ((n,), "uint32"), "codes": ((n,), "uint8"), "scales": ((1,), "float32")}

    def encode(self, change: np.ndarray, rng: np.random.Generator) -> Parts:
        flat = change.ravel()
        n = self.forms(change.shape)["places"][0][0]
        places = np.sort(np.argpartition(np.abs(flat), len(flat) - n)[len(flat) - n :]).astype(np.uint32)
        return {"places": places, **Rows(8).encode(flat[places][None], rng)}

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> np.ndarray:
        places, flat = parts["places"].astype(np.int64), np.zeros(int(np.prod(shape)), np.float32)
        if (np.diff(places) <= 0).any() or places[-1] >= len(flat):
            raise ValueError("places that are not in order, or outside the array")
        flat[places] = Rows(8).decode({k: parts[k] for k in ("codes", "scales")}, (1, len(places)))[0]
        return flat.reshape(shape)


def encode(codec: Codec, new: Arrays, base: Arrays, rng: np.random.Generator) -> ArrayRecord:
    """The code of ``new`` weights for whoever holds ``base``."""
    coded = ArrayRecord()
    for name, value in new.items():
        if _is_coded(value, base.get(name)):
            parts = codec.encode(value - base[name], rng)
            for part, array in parts.items():
                coded[f"{name}{OF}{part}"] = Array(array)
        else:
            coded[name] = Array(value)
    return coded


def decode(codec: Codec, coded: ArrayRecord, base: Arrays) -> dict[str, np.ndarray]:
    """The weights that a code stands for. ValueError for one that ``encode`` cannot have made of weights in the form of
    ``base``; nothing is unpacked before its size is known to be right."""
    forms = {name: codec.forms(value.shape) if _is_coded(value, value) else {} for name, value in base.items()}
    expected = {f"{name}{OF}{part}" for name, parts in forms.items() for part in parts}
    if set(coded) != expected | {name for name, parts in forms.items() if not parts}:
        raise ValueError("arrays of other names")
    new = {}
    for name, value in base.items():
        if forms[name]:
            parts = {part: _values(coded[f"{name}{OF}{part}"], *form) for part, form in forms[name].items()}
            new[name] = value + codec.decode(parts, value.shape)
        else:
            new[name] = _values(coded[name], value.shape, str(value.dtype))
    return new


def _is_coded(value: np.ndarray, base: np.ndarray | None) -> bool:
    return base is not None and value.shape == base.shape and value.ndim > 1 and value.dtype == np.float32


def _values(array: Array, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    header, n_bytes = _header(shape, dtype)
    if not array.data.startswith(header) or len(array.data) != len(header) + n_bytes:
        raise ValueError("an array of another form")
    return np.frombuffer(array.data, dtype, offset=len(header)).reshape(shape)


@cache
def _header(shape: tuple[int, ...], dtype: str) -> tuple[bytes, int]:
    """What an array of Flower begins with, and the bytes of its values."""
    values = np.zeros(shape, dtype)
    data = Array(values).data
    return data[: len(data) - values.nbytes], values.nbytes


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    return values
