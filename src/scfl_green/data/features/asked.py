"""Sums by gene over all clients, asked for when they are needed, of no more genes than needed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np

from scfl_green.data.features.sums import ALL_GENES, GeneSums, Packed
from scfl_green.data.partition import Part, Split
from scfl_green.data.reading.cells import Cells

# What is asked, and a client's answer: both arrays by name.
Answer = Callable[[Part, Packed], Packed]
# Puts a question to clients, in this process or by a federation's messages.
Ask = Callable[[Sequence[Part], Packed, Answer], Iterable[Packed]]
LINEAR, LOGGED = "linear", "logged"


def directly(parts: Sequence[Part], question: Packed, answer: Answer, **_: object) -> list[Packed]:
    """Ask all parts in this process."""
    return [answer(part, question) for part in parts]


@dataclass
class AskedSums:
    """The gene sums of a split's clients; ``sizes`` are those of all questions and answers so far, in bytes."""

    cells: Cells
    split: Split
    preprocess: bool = True
    ask: Ask = directly
    sizes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_genes(self) -> int:
        return self.cells.counts.shape[1]

    @cached_property
    def linear(self) -> GeneSums:
        """Sums of the normalised counts, over all cells."""
        return self._asked(LINEAR)

    @cached_property
    def logged(self) -> GeneSums:
        """Sums of log(1 + x) of the normalised counts, by cell type."""
        return self._asked(LOGGED)

    def logged_of(self, genes: np.ndarray) -> GeneSums:
        """``logged`` of some genes (positions)."""
        return self.logged.of(genes) if LOGGED in vars(self) else self._asked(LOGGED, genes)

    def _asked(self, kind: str, genes: np.ndarray | None = None) -> GeneSums:
        wanted = np.ones(self.n_genes, bool) if genes is None else np.isin(np.arange(self.n_genes), genes)
        question = {kind: np.packbits(wanted) if genes is not None else np.empty(0, np.uint8)}
        parts = list(self.split.clients.values())
        answers = list(self.ask(parts, question, self._answer))
        sizes = {part.name: _sizes(answer) for part, answer in zip(parts, answers, strict=True)}
        self.sizes.append({"question": _sizes(question), "answers": sizes})
        sums = reduce(add, (GeneSums.unpacked(answer, int(wanted.sum())) for answer in answers))
        # Asked as a set, in order of position.
        return sums if genes is None else sums.of(np.argsort(np.argsort(genes)))

    def _answer(self, part: Part, question: Packed) -> Packed:
        """What a client knows from its own cells alone."""
        ((kind, bits),) = question.items()
        if kind == LINEAR:
            return GeneSums.linear(self.cells, part.train, self.preprocess).packed()
        genes = np.flatnonzero(np.unpackbits(bits, count=self.n_genes)) if len(bits) else ALL_GENES
        return GeneSums.logged(self.cells, part.train, self.preprocess, genes).packed()


def ask_again(ask: Ask, split: Split, sizes: Sequence[dict[str, Any]]) -> None:
    """Send as many bytes as were asked for when a dataset was prepared, whose preparation is not repeated."""
    for asked in sizes:
        answers = {name: _blank(answer) for name, answer in asked["answers"].items()}

        def answer(part: Part, _: Packed, answers: dict[str, Packed] = answers) -> Packed:
            return answers[part.name]

        list(ask(list(split.clients.values()), _blank(asked["question"]), answer))


def _sizes(arrays: Packed) -> dict[str, int]:
    return {name: array.nbytes for name, array in arrays.items()}


def _blank(sizes: dict[str, int]) -> Packed:
    return {name: np.zeros(size, np.uint8) for name, size in sizes.items()}
