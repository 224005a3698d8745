"""Codecs: the change of weights in fewer bytes than the weights.

What travels is the difference to weights that both sides hold. Matrices are coded, and their codes compressed; vectors
(biases) and integers travel exactly.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from flwr.app import Array, ArrayRecord
from pydantic import Field

from scfl_green.bounds import Fraction

Arrays = Mapping[str, np.ndarray]
Bits = Annotated[int, Field(ge=2, le=8)]
# How an array that is sent as a code is serialised; Flower's own arrays say "numpy.ndarray".
DEFLATED = "deflated code"


@runtime_checkable
class Codec(Protocol):
    """Codes the change of one matrix (float32)."""

    def size(self, shape: tuple[int, ...]) -> int:
        """Bytes of the code of an array."""

    def encode(self, change: np.ndarray, rng: np.random.Generator) -> bytes: ...

    def decode(self, code: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """The change, approximately; ValueError for a code that ``encode`` cannot have made."""


@dataclass(frozen=True)
class Half:
    """16-bit floats."""

    def size(self, shape: tuple[int, ...]) -> int:
        return 2 * math.prod(shape)

    def encode(self, change: np.ndarray, rng: np.random.Generator) -> bytes:
        return change.astype(np.float16).tobytes()

    def decode(self, code: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return _finite(np.frombuffer(code, np.float16)).astype(np.float32).reshape(shape)


@dataclass(frozen=True)
class Rows:
    """Whole numbers of a few bits with a scale for each output row, rounded at random so that their mean is exact.

    Most are near 0, so that compressed they take fewer bits than these. Alistarh et al. 2017 (NeurIPS, "QSGD:
    Communication-Efficient SGD via Gradient Quantization"), section 3, with the largest magnitude as norm and Huffman's
    code.
    """

    bits: Bits

    @property
    def top(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def size(self, shape: tuple[int, ...]) -> int:
        return 4 * shape[0] + math.prod(shape)

    def encode(self, change: np.ndarray, rng: np.random.Generator) -> bytes:
        rows = change.reshape(len(change), -1)
        scales = (np.maximum(rows.max(axis=1), -rows.min(axis=1)) / self.top).astype(np.float32)
        codes = rows / np.where(scales > 0, scales, 1)[:, None]
        codes += rng.random(rows.shape, dtype=np.float32)
        np.clip(np.floor(codes, out=codes), -self.top, self.top, out=codes)
        return scales.tobytes() + codes.astype(np.int8).tobytes()

    def decode(self, code: bytes, shape: tuple[int, ...]) -> np.ndarray:
        scales, codes = np.frombuffer(code, np.float32, shape[0]), np.frombuffer(code, np.int8, offset=4 * shape[0])
        if (_finite(scales) < 0).any():
            raise ValueError("negative scales")
        return (codes.reshape(shape[0], -1) * scales[:, None]).reshape(shape)


@dataclass(frozen=True)
class Largest:
    """The ``share`` of entries of largest magnitude, in a few bits each; the others are sent later, when they have
    grown.

    Aji and Heafield 2017 (EMNLP, "Sparse Communication for Distributed Gradient Descent").
    """

    share: Fraction
    bits: Bits = 8

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Bytes that mark entries, and the number of these."""
        n = math.prod(shape)
        return -(-n // 8), max(1, round(self.share * n))

    def size(self, shape: tuple[int, ...]) -> int:
        marks, n = self._sizes(shape)
        return marks + Rows(self.bits).size((1, n))

    def encode(self, change: np.ndarray, rng: np.random.Generator) -> bytes:
        flat, n = change.ravel(), self._sizes(change.shape)[1]
        chosen = np.zeros(len(flat), bool)
        chosen[np.argpartition(np.abs(flat), len(flat) - n)[len(flat) - n :]] = True
        return np.packbits(chosen).tobytes() + Rows(self.bits).encode(flat[chosen][None], rng)

    def decode(self, code: bytes, shape: tuple[int, ...]) -> np.ndarray:
        marks, n = self._sizes(shape)
        chosen = np.unpackbits(np.frombuffer(code, np.uint8, marks), count=math.prod(shape)).astype(bool)
        if chosen.sum() != n:
            raise ValueError(f"another number of entries than {n}")
        flat = np.zeros(len(chosen), np.float32)
        flat[chosen] = Rows(self.bits).decode(code[marks:], (1, n))[0]
        return flat.reshape(shape)


def encode(
    codec: Codec, new: Arrays, base: Arrays, rng: np.random.Generator
) -> tuple[ArrayRecord, dict[str, np.ndarray]]:
    """The code of ``new`` weights for whoever holds ``base``, and the weights that it stands for."""
    coded, decoded = ArrayRecord(), dict(new)
    for name, value in new.items():
        if _is_coded(value, base.get(name)):
            code = codec.encode(value - base[name], rng)
            coded[name] = Array(str(value.dtype), value.shape, DEFLATED, _compressed(code))
            decoded[name] = _changed(base[name], codec, code)
        else:
            coded[name] = Array(value)
    return coded, decoded


def decode(codec: Codec, coded: ArrayRecord, base: Arrays) -> dict[str, np.ndarray]:
    """The weights that a code stands for. ValueError for one that ``encode`` cannot have made of weights in the form of
    ``base``; nothing is unpacked beyond its right size."""
    if set(coded) != set(base):
        raise ValueError("arrays of other names")
    new = {}
    for name, value in base.items():
        if _is_coded(value, value):
            new[name] = _changed(value, codec, _decompressed(coded[name], codec.size(value.shape)))
        else:
            new[name] = _values(coded[name], value)
    return new


def _changed(base: np.ndarray, codec: Codec, code: bytes) -> np.ndarray:
    change = codec.decode(code, base.shape)
    return np.add(base, change, out=change)


def _is_coded(value: np.ndarray, base: np.ndarray | None) -> bool:
    return base is not None and value.shape == base.shape and value.ndim > 1 and value.dtype == np.float32


def _compressed(code: bytes) -> bytes:
    """Huffman's code alone: changes of weights repeat nothing."""
    deflate = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS, strategy=zlib.Z_HUFFMAN_ONLY)
    return deflate.compress(code) + deflate.flush()


def _decompressed(array: Array, size: int) -> bytes:
    """A code of this size; ValueError for any other."""
    if array.stype != DEFLATED:
        raise ValueError("no code")
    inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        code = inflate.decompress(array.data, size + 1)
    except zlib.error as error:
        raise ValueError("no compressed code") from error
    if len(code) != size or not inflate.eof:
        raise ValueError("a code of another size")
    return code


def _values(array: Array, like: np.ndarray) -> np.ndarray:
    header, n_bytes = _header(like.shape, str(like.dtype))
    if not array.data.startswith(header) or len(array.data) != len(header) + n_bytes:
        raise ValueError("an array of another form")
    return np.frombuffer(array.data, like.dtype, offset=len(header)).reshape(like.shape)


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
