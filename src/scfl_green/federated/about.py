"""Questions about trained weights, asked of sites by messages."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from flwr.app import ArrayRecord, Message, RecordDict

from scfl_green.data.partition import Part
from scfl_green.data.wire import Arrays
from scfl_green.energy.ledger import CALIBRATE
from scfl_green.errors import InputError
from scfl_green.federated.asking import answer_of, content_of
from scfl_green.federated.grid import QUERY
from scfl_green.federated.network import network_of
from scfl_green.federated.once import WeightsOnce
from scfl_green.federated.secure import Masks, Put
from scfl_green.federated.site import sites_of
from scfl_green.models.prune import Weights
from scfl_green.training import survey
from scfl_green.training.job import Job

LOG = logging.getLogger(__name__)
# The site of an answer that is the sum over all.
TOGETHER = "all sites"


@contextmanager
def about_weights(
    job: Job,
    weights: Weights,
    parts: Sequence[Part],
    *,
    n_workers: int = 1,
    timeout_seconds: float = 3600,
    round_number: int = 0,
) -> Iterator[survey.Ask]:
    """Ask sites about weights by messages (``training.survey.Survey``). The weights travel to sites that do not
    hold them, once; sites that fail, or exceed the time-out, do not answer. Questions that train are of a round."""
    asking = _Asking(job, weights, parts, n_workers, timeout_seconds)
    asking.round_number = round_number
    try:
        yield asking.ask
    finally:
        asking.grid.close()


class _Asking:
    """Questions about the same weights to the same sites."""

    def __init__(
        self, job: Job, weights: Weights, parts: Sequence[Part], n_workers: int, timeout_seconds: float
    ) -> None:
        network = network_of(job)
        self.job, self.masks, self.timeout_seconds = job, network.masks, timeout_seconds
        self.grid = network.grid(sites_of(job, parts), job.meter, n_workers=n_workers)
        self.numbers = {name: number for number, name in self.grid.clients.items()}
        self.weights, self.round_number = ArrayRecord(weights), 0
        # Sites that were asked to validate them hold them; others say that they do not.
        self.once = WeightsOnce(self.grid, known=self.weights)

    def ask(self, kind: str, question: Arrays) -> Iterator[tuple[str, Arrays]]:
        if self.masks is not None and kind == CALIBRATE and self.masks.keys.keys() == self.numbers.keys():
            yield TOGETHER, _together(self.masks, self._put, question, self.job)
            return
        answers = self._put(kind, dict.fromkeys(self.numbers, question))
        yield from ((name, answers.get(name, {})) for name in self.numbers)

    def _put(self, kind: str, questions: Mapping[str, Arrays]) -> dict[str, Arrays]:
        contents = {
            name: RecordDict({**content_of(q, self.round_number), "arrays": self.weights})
            for name, q in questions.items()
        }
        messages = [
            Message(content, dst_node_id=self.numbers[name], message_type=QUERY + kind)
            for name, content in contents.items()
        ]
        replies = self.once.send_and_receive(messages, timeout=self.timeout_seconds)
        answers = {self.grid.clients[reply.metadata.src_node_id]: answer_of(reply) for reply in replies}
        return {name: answer for name, answer in answers.items() if answer is not None}


def _together(masks: Masks, put: Put, question: Arrays, job: Job) -> Arrays:
    """The answer of all sites to a question about the calibration; none where it cannot be had: the weights can."""
    try:
        return masks.calibration(put, question, job.model.n_types, job.features.n_genes)
    except InputError as error:
        LOG.warning("%s", error)
        return {}
