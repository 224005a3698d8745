"""A site of a federation: the owner of some cells, and all that it answers from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord

from scfl_green.data.partition import Part
from scfl_green.data.site import Answers
from scfl_green.data.wire import Arrays
from scfl_green.federated.codec import Codec
from scfl_green.models.prune import Weights
from scfl_green.training.job import Job
from scfl_green.training.survey import ANSWERS


class DisagreementError(Exception):
    """A message of a training that the site has not agreed to, or not to all of it."""


@dataclass
class Site:
    """A site of a federation, the same in a hospital and in a simulation. It has ``cells`` before training, and for
    training a ``job`` and its ``part`` of the cells; a server knows of it no more than a part that counts them.

    With a ``codec``, the change of weights is coded. ``untrained`` are the
    weights that it draws from the seed, and so need not be sent.
    """

    name: str
    part: Part | None = None
    cells: Answers | None = None
    job: Job | None = None
    codec: Codec | None = None
    untrained: ArrayRecord | None = None

    @property
    def seed(self) -> int:
        return self._job.seed

    @property
    def n_train(self) -> int:
        return len(self._part.train)

    @property
    def n_validation(self) -> int:
        return len(self._part.validation)

    def check(self, agreed: str) -> None:
        """DisagreementError unless ``agreed`` is the hash of what this site has agreed to."""
        if agreed != self._job.agreed:
            raise DisagreementError("the message is of another training than the one that was prepared here")

    def train(self, weights: Weights, **options: Any) -> tuple[Weights, dict[str, float]]:
        """Train ``weights`` on its training cells (``Job.fit``)."""
        return self._job.fit(self._part, weights, **options)

    def validate(self, weights: Weights, round_number: int) -> dict[str, float]:
        """Scores of ``weights`` on its validation cells."""
        return self._job.validate(self._part, weights, round_number)

    def answer(self, kind: str, question: Arrays, weights: Weights | None) -> Arrays:
        """The answer to any other question: about its cells before training, or with sums over cells about
        ``weights``."""
        if kind in ANSWERS:
            assert weights is not None
            return ANSWERS[kind](self._job, self._part, weights, question)
        if self.cells is None:
            raise DisagreementError("a question before training, which is over")
        return self.cells.answer(kind, question)

    @property
    def _job(self) -> Job:
        if self.job is None:
            raise DisagreementError("no training has been prepared here")
        return self.job

    @property
    def _part(self) -> Part:
        assert self.part is not None
        return self.part


def sites_of(job: Job, parts: Sequence[Part], codec: Codec | None = None) -> list[Site]:
    """The sites of a job that train, or answer questions about weights."""
    untrained = ArrayRecord(job.untrained)
    return [Site(part.name, part, job=job, codec=codec, untrained=untrained) for part in parts]
