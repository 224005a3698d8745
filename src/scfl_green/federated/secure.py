"""Asks sites for sums under masks, so that the server reads only those over all of them."""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from scfl_green.data.features.sums import LINEAR, GeneSums
from scfl_green.data.questions import SUMS
from scfl_green.data.wire import Arrays, packed_text, read_each, unpacked_text
from scfl_green.energy.ledger import CALIBRATE
from scfl_green.errors import InputError
from scfl_green.federated.masked_sums import LINEAR_VALUES, LOGGED_VALUES, Federated, gene_sums
from scfl_green.federated.masks import Question, unmasked_sum
from scfl_green.federated.spans import Form
from scfl_green.models.calibration import filled

# The kind of question for a site's key, before all sums.
KEYS = "keys"
# In a question: how its answer is to be masked; and in one that is asked after it, its hash, for what the server needs
# to read the sum.
MASKED, DIGEST, ANSWERED = "masked", "digest", "answered"
# Puts a question of a kind to sites, to each its own; the answers of those that give one.
Put = Callable[[str, Mapping[str, Arrays]], Mapping[str, Arrays]]


@dataclass(frozen=True)
class Masking:
    """What a site is told beside a question whose answer it is to mask."""

    agreement: str
    step: str
    attempt: int
    cells: int
    keys: Mapping[str, bytes]

    def packed(self) -> np.ndarray:
        return packed_text(vars(self) | {"keys": {name: key.hex() for name, key in self.keys.items()}})

    @classmethod
    def unpacked(cls, data: np.ndarray) -> "Masking":
        """Undo ``packed``; an error for anything else."""
        told = unpacked_text(data)
        keys = {str(name): bytes.fromhex(key) for name, key in told["keys"].items()}
        return cls(str(told["agreement"]), str(told["step"]), int(told["attempt"]), int(told["cells"]), keys)

    def question(self, asked: Arrays, form: Callable[[Federated], Form]) -> Question:
        """The masked question, which both sides compute from what is ``asked``."""
        digest = hashlib.sha256()
        for name in sorted(asked):
            digest.update(name.encode() + bytes(asked[name].tobytes()))
        sums = form(Federated(len(self.keys), self.cells))
        return Question(self.agreement, self.step, digest.hexdigest(), self.attempt, sums, self.keys)


@dataclass
class Masks:
    """The server's side: the number of the sites' training cells, the name of their agreement, their keys by name."""

    cells: int
    agreement: str = ""
    keys: dict[str, bytes] = field(default_factory=dict)
    steps: int = 0

    def begin(self, put: Put, names: Iterable[str]) -> None:
        """Ask every site for its key, which is of this run alone: a site sums once what it is asked under an agreement,
        and a run that was killed asks again."""
        self.agreement = secrets.token_hex(16)
        told = put(KEYS, {name: {"agreement": packed_text(self.agreement)} for name in names})
        self.keys = read_each(KEYS, told, lambda answer: bytes(answer["key"].tobytes()))

    def summed(self, put: Put, kind: str, asked: Arrays, form: Callable[[Federated], Form]) -> dict[str, np.ndarray]:
        """The sum of all answers to a question; InputError where it cannot be had."""
        self.steps += 1
        masking = Masking(self.agreement, f"{kind} {self.steps}", 1, self.cells, self.keys)
        question = masking.question(asked, form)
        answers = put(kind, {name: {**asked, MASKED: masking.packed()} for name in self.keys})
        reveal = {DIGEST: np.frombuffer(question.digest, np.uint8), ANSWERED: packed_text(sorted(answers))}
        reveals = dict(put(kind, dict.fromkeys(answers, reveal)))
        if missing := sorted(answers.keys() - reveals.keys()):  # the same again tells no more
            reveals |= put(kind, dict.fromkeys(missing, reveal))
        try:
            return unmasked_sum(question, answers, {name: one["reveal"] for name, one in reveals.items()})
        except (ValueError, KeyError) as error:
            raise InputError(f"sums under masks cannot be read: {error}") from None

    def genes(self, put: Put, asked: Arrays, n_types: int, n_genes: int) -> GeneSums:
        """Sums by gene (``data.features.asked``)."""
        return gene_sums(self.summed(put, SUMS, asked, genes_form(asked, n_types, n_genes)))

    def calibration(self, put: Put, asked: Arrays, n_types: int, n_genes: int) -> Arrays:
        """What all sites together answer to a question of ``training.calibrate``."""
        total = self.summed(put, CALIBRATE, asked, calibration_form(asked, n_types, n_genes))
        return {name: filled(counts).astype(np.uint32) for name, counts in total.items()} if asked else total


def genes_form(asked: Arrays, n_types: int, n_genes: int) -> Callable[[Federated], Form]:
    """The form of sums by gene, given the question, of ``n_genes`` that are wanted."""
    linear = LINEAR in asked
    groups, values = (1, LINEAR_VALUES) if linear else (n_types, LOGGED_VALUES)
    return lambda federated: federated.genes(groups, n_genes, values)


def calibration_form(asked: Arrays, n_types: int, n_genes: int) -> Callable[[Federated], Form]:
    """The form of what calibration asks (``training.calibrate``)."""
    return lambda federated: federated.histograms(n_types) if asked else federated.profiles(n_types, n_genes)
