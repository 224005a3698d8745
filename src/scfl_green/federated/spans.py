"""Integers whose sum keeps to a known range, packed into as few bits as that needs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Numbers that are packed at once; a multiple of eight, so that every block ends with a byte.
BLOCK = 2**16


@dataclass(frozen=True)
class Span:
    """An array of integers that sites add up: its shape, and the least and greatest value of any sum over sites."""

    shape: tuple[int, ...]
    low: int
    high: int

    def __post_init__(self) -> None:
        if not -(2**62) <= self.low <= 0 <= self.high < 2**62:
            raise ValueError(f"sums from {self.low} to {self.high}, which 64 bits may not hold")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Bits of a masked number: sums are exact modulo 2**bits."""
        return max(1, (self.high - self.low).bit_length())

    @property
    def n_bytes(self) -> int:
        """The size of a masked array, which nothing compresses."""
        return -(-self.size * self.bits // 8)

    def packed(self, numbers: np.ndarray) -> np.ndarray:
        """The lowest ``bits`` of 64-bit numbers (uint8, end to end)."""
        octets = numbers.astype("<u8").reshape(-1, 1).view(np.uint8)
        blocks = (octets[start : start + BLOCK] for start in range(0, self.size, BLOCK))
        bits = (np.unpackbits(block, axis=1, bitorder="little")[:, : self.bits] for block in blocks)
        return np.concatenate([np.empty(0, np.uint8), *(np.packbits(block, bitorder="little") for block in bits)])

    def unpacked(self, data: np.ndarray) -> np.ndarray:
        """Undo ``packed`` (uint64); ValueError for anything of another size."""
        if data.dtype != np.uint8 or data.shape != (self.n_bytes,):
            raise ValueError(f"{data.dtype} of shape {data.shape}, where {self.n_bytes} masked bytes were asked for")
        numbers = np.zeros((self.size, 8), np.uint8)
        for start in range(0, self.size, BLOCK):
            block = data[start * self.bits // 8 : (start + BLOCK) * self.bits // 8]
            count = min(BLOCK, self.size - start)
            bits = np.unpackbits(block, count=count * self.bits, bitorder="little").reshape(count, self.bits)
            numbers[start : start + count, : -(-self.bits // 8)] = np.packbits(bits, axis=1, bitorder="little")
        return numbers.view("<u8").reshape(self.shape)

    def read(self, total: np.ndarray) -> np.ndarray:
        """The sum (int64) that unmasked numbers stand for; ValueError where it is out of range."""
        above = (total - np.uint64(self.low % 2**64)) & np.uint64(2**self.bits - 1)
        if (above > np.uint64(self.high - self.low)).any():
            raise ValueError(f"sums above {self.high}")
        return above.astype(np.int64) + self.low

    def holds(self, values: np.ndarray) -> bool:
        """Whether a site's own integers have this shape and range."""
        whole = values.dtype.kind in "iu" and values.shape == self.shape
        return whole and self.low <= int(values.min(initial=0)) and int(values.max(initial=0)) <= self.high


Form = Mapping[str, Span]
