"""Sums that the server cannot attribute to a site: exact integers under masks that cancel only in the sum.

Bonawitz et al. 2017 (CCS, "Practical Secure Aggregation for Privacy-Preserving Machine Learning"), section 4: every
pair of sites adds and subtracts the same random numbers, and each site adds random numbers of its own, so that what
comes late reveals nothing. Deviation: secrets are not shared out among sites (see docs/masked_sums.md).
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from scfl_green.federated.spans import Form, Span

Arrays = Mapping[str, np.ndarray]
# The length of every seed, key and hash here.
BYTES = 32
# Of every answer: a one, by which the server notices masks that do not cancel.
SITES = "sites"


@dataclass(frozen=True)
class Question:
    """What sites are asked for: arrays of ``form``, of each site in ``keys`` (what ``SiteKey.told`` says, by name).

    ``agreement`` is the hash of what the federation agreed on, ``step`` names what is asked, ``asked`` is the hash of
    the question itself, ``attempt`` counts from 1. Masks are derived from all of it.
    """

    agreement: str
    step: str
    asked: str
    attempt: int
    form: Form
    keys: Mapping[str, bytes]

    @cached_property
    def full(self) -> dict[str, Span]:
        """The form of an answer."""
        return {**self.form, SITES: Span((1,), 0, 2**62 - 1)}

    @property
    def names(self) -> list[str]:
        """The sites in the order of a reveal's rows."""
        return sorted(self.keys)

    @cached_property
    def digest(self) -> bytes:
        """A hash of everything."""
        form = {name: [span.shape, span.low, span.high] for name, span in self.form.items()}
        keys = {name: key.hex() for name, key in self.keys.items()}
        about = [self.agreement, self.step, self.asked, self.attempt, form, keys]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).digest()


def stream(seed: bytes, form: Form) -> Iterator[tuple[str, np.ndarray]]:
    """Random numbers of 64 bits for every array, the same for the same seed: AES-256 in counter mode."""
    cipher = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    for name in sorted(form):
        drawn = cipher.update(bytes(8 * form[name].size))
        yield name, np.frombuffer(drawn, "<u8").reshape(form[name].shape)


def unmasked_sum(
    question: Question, answers: Mapping[str, Arrays], reveals: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The sum (int64) of the answers, given what each site of ``answers`` has revealed of its masks.

    ValueError where any has another form, and where the sum is not that of as many sites (wrong masks): which site is
    to blame cannot be told then."""
    names, answered = question.names, sorted(answers)
    if not answered or sorted(reveals) != answered or not set(answered) <= set(names):
        raise ValueError(f"answers of {len(answered)} sites and reveals of {len(reveals)}, of {len(names)} asked")
    numbers = [_read(site, question, answers[site], reveals[site]) for site in answered]
    total = {name: reduce(np.add, (of_site[name] for of_site in numbers)) for name in question.full}
    for seed, sign in _seeds(names, answered, reveals):
        for name, mask in stream(seed, question.full):
            total[name] = total[name] - mask if sign > 0 else total[name] + mask
    if (found := question.full[SITES].read(total.pop(SITES))) != len(answered):
        raise ValueError(f"masks that do not cancel (a sum of {found[0]} sites, not of {len(answered)})")
    return {name: question.form[name].read(numbers) for name, numbers in total.items()}


def _read(site: str, question: Question, answer: Arrays, reveal: np.ndarray) -> dict[str, np.ndarray]:
    """The masked numbers of an answer; ValueError for what is none, and for a reveal that is none."""
    if set(answer) != set(question.full):
        raise ValueError(f"{site}: {len(answer)} arrays, whose names differ from the {len(question.full)} asked for")
    if reveal.dtype != np.uint8 or reveal.shape != (len(question.keys), BYTES):
        raise ValueError(f"{site}: a reveal of shape {reveal.shape}, where {len(question.keys)} x {BYTES} was expected")
    try:
        return {name: span.unpacked(answer[name]) for name, span in question.full.items()}
    except ValueError as error:
        raise ValueError(f"{site}: {error}") from error


def _seeds(
    names: Sequence[str], answered: Collection[str], reveals: Mapping[str, np.ndarray]
) -> Iterator[tuple[bytes, int]]:
    """The seeds of the masks that are left in a sum, and their signs."""
    for site in answered:
        # All that answered have to consent to a site's own mask being known.
        consents = [reveals[other][names.index(site)] for other in answered]
        yield np.bitwise_xor.reduce(consents, axis=0).tobytes(), 1
        for row, other in enumerate(names):
            if other not in answered:
                yield reveals[site][row].tobytes(), sign_of(site, other)


def sign_of(site: str, other: str) -> int:
    """With which sign a site adds the mask that it shares with another."""
    return 1 if site < other else -1
