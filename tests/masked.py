"""Sites that answer masked questions, and a server that tries what it can."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np

from scfl_green.federated.consent import Consent
from scfl_green.federated.masker import Masker, SiteKey
from scfl_green.federated.masks import SITES, Arrays, Question, sign_of, stream, unmasked_sum
from scfl_green.federated.spans import Form, Span

AGREED = "the hash of what was agreed"
SMALL: Form = {"counts": Span((7, 3), 0, 1000), "signed": Span((5,), -(2**40), 2**40), "none": Span((0,), 0, 1)}


@dataclass
class Sites:
    """The sites of one federation and what a server can ask of them."""

    maskers: dict[str, Masker] = field(default_factory=dict)

    @classmethod
    def new(cls, names: Sequence[str], **rules: object) -> "Sites":
        return cls({name: Masker(name, SiteKey.new(AGREED, name), Consent(**rules)) for name in names})

    def question(self, form: Form = SMALL, attempt: int = 1, step: str = "step", of: Sequence[str] = ()) -> Question:
        keys = {name: self.maskers[name].key.told for name in of or self.maskers}
        return Question(AGREED, step, "the hash of a question", attempt, form, keys)

    def answers(self, question: Question, values: Mapping[str, Arrays]) -> dict[str, dict[str, np.ndarray]]:
        return {name: self.maskers[name].masked(question, values[name]) for name in values}

    def reveals(self, question: Question, answered: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: self.maskers[name].reveal(question, answered) for name in answered}

    def summed(self, question: Question, values: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
        answers = self.answers(question, values)
        return unmasked_sum(question, answers, self.reveals(question, [*answers]))


def drawn(names: Sequence[str], form: Form = SMALL, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Values of every site whose sum has the range of the form."""
    rng, n = np.random.default_rng(seed), len(names)
    return {
        name: {
            key: rng.integers(span.low // n, span.high // n, span.shape, endpoint=True) for key, span in form.items()
        }
        for name in names
    }


def plain_sum(values: Mapping[str, Arrays], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    given = [values[name] for name in names or values]
    return {key: reduce(add, (arrays[key] for arrays in given)) for key in given[0]}


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def called(n: int) -> list[str]:
    return [f"site {number}" for number in range(n)]


def seen_through(question: Question, answer: Arrays, reveals: Mapping[str, np.ndarray], site: str) -> bool:
    """Whether a server that combines all that it was told finds the masks of one site's answer."""
    span = question.full[SITES]
    masked = span.unpacked(answer[SITES])
    guesses = _guesses(question, reveals, site)
    return any(((masked - mask) & np.uint64(2**span.bits - 1) == 1).all() for mask in guesses)


def _guesses(question: Question, reveals: Mapping[str, np.ndarray], site: str) -> Iterator[np.ndarray]:
    """The masks of a site's answer under every guess: what hides the site's own, and who told of each pair."""
    row, peers = question.names.index(site), [name for name in question.names if name != site]
    mine = reveals.get(site, np.zeros((len(question.names), 32), np.uint8))
    told = {peer: reveals[peer][row] for peer in peers if peer in reveals}
    pairs = [[mine[question.names.index(peer)], *([told[peer]] if peer in told else [])] for peer in peers]
    some = itertools.chain.from_iterable(itertools.combinations(told.values(), n) for n in range(len(told) + 1))
    owns = [np.bitwise_xor.reduce([mine[row], *hiding], axis=0) for hiding in some]
    for own, *of_pairs in itertools.product(owns, *pairs):
        masks = [dict(stream(seed.tobytes(), question.full))[SITES] for seed in (own, *of_pairs)]
        signs = [1, *(sign_of(site, peer) for peer in peers)]
        yield np.sum([mask if sign > 0 else -mask for mask, sign in zip(masks, signs, strict=True)], axis=0)
