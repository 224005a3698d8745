"""Plain values and arrays as the few bytes that travel between sites."""

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from scfl_green.errors import InputError

# What travels: arrays by name.
Packed = dict[str, np.ndarray]
Arrays = Mapping[str, np.ndarray]
# Of text, before it is deflated: the names of more genes than any genome has.
MOST_TEXT_BYTES = 100_000_000
T = TypeVar("T")


def read_each(kind: str, answers: Mapping[str, Arrays], read: Callable[[Arrays], T]) -> dict[str, T]:
    """The answers of sites to a question of a kind, as ``read`` reads them; InputError naming the site of one that it
    cannot read."""
    made = {}
    for name, answer in answers.items():
        try:
            made[name] = read(answer)
        except Exception as error:  # whatever a site may have sent
            raise InputError(
                f"{name}: what it answered to {kind}, before training, is no answer ({type(error).__name__}): it has "
                "another version, or is at fault; leave it out with sites.names=[...]"
            ) from error
    return made


def packed_text(value: Any) -> np.ndarray:
    """Plain values as deflated JSON (uint8)."""
    return np.frombuffer(zlib.compress(json.dumps(value, separators=(",", ":")).encode()), np.uint8)


def unpacked_text(data: np.ndarray) -> Any:
    """Undo ``packed_text``; ValueError or zlib.error for bytes that hold something else."""
    stream = zlib.decompressobj()
    text = stream.decompress(data.tobytes(), MOST_TEXT_BYTES)
    if not stream.eof:
        raise ValueError(f"more than {MOST_TEXT_BYTES} bytes of text, or a part of it")
    return json.loads(text)


def packed_places(places: np.ndarray) -> np.ndarray:
    """Positions (int32) as their deflated differences (uint8)."""
    return np.frombuffer(zlib.compress(np.diff(places.astype("<i4"), prepend=np.int32(-1)).tobytes()), np.uint8)


def unpacked_places(data: np.ndarray, n: int) -> np.ndarray:
    """Undo ``packed_places``; ValueError or zlib.error for bytes that hold anything but ``n`` positions."""
    stream = zlib.decompressobj()
    differences = np.frombuffer(stream.decompress(data.tobytes(), 4 * n + 1), "<i4")
    if not stream.eof or len(differences) != n:
        raise ValueError(f"other than {n} positions")
    return differences.cumsum(dtype=np.int32) - np.int32(1)


def sizes(arrays: Arrays) -> dict[str, int]:
    """The bytes of each array."""
    return {name: array.nbytes for name, array in arrays.items()}


def blank(sizes: Mapping[str, int]) -> Packed:
    """As many bytes, with no content."""
    return {name: np.zeros(size, np.uint8) for name, size in sizes.items()}
