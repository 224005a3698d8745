"""Questions about trained weights, which every site answers with sums over its own cells."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor

from scfl_green.data.partition import Part
from scfl_green.energy.ledger import CALIBRATE, FIT, TEST
from scfl_green.models.calibration import BINS, filled, likelihood_sums, novelty_bins, score_bins
from scfl_green.models.moments import Moments
from scfl_green.models.novelty import ProfileSums
from scfl_green.models.prune import Weights
from scfl_green.training.job import Job

# What travels, in both directions.
Arrays = Mapping[str, np.ndarray]
# Puts a question of a kind to every site: yields the name and the answer of each that answers.
Ask = Callable[[str, Arrays], Iterable[tuple[str, Arrays]]]
# Makes one for weights and the sites to ask: in this process, or by a federation's messages.
Survey = Callable[[Job, Weights, Sequence[Part]], AbstractContextManager[Ask]]
SUMS = ("n", "linear", "squared")
# The kind of question that trains in one shot.
MOMENTS = "moments"


@contextmanager
def in_turn(job: Job, weights: Weights, parts: Sequence[Part]) -> Iterator[Ask]:
    """Ask the parts one after the other in this process."""
    yield lambda kind, question: ((part.name, ANSWERS[kind](job, part, weights, question)) for part in parts)


def test_sums(job: Job, part: Part, weights: Weights, question: Arrays) -> Arrays:
    """What a site's test cells tell of weights (``Scored``), given their temperature; without one, what its validation
    cells tell."""
    tested = job.tested(part, weights, float(question["temperature"][0])) if question else job.validated(part, weights)
    return {name: value.numpy() for name, value in vars(tested).items()}


def calibration_sums(job: Job, part: Part, weights: Weights, question: Arrays) -> Arrays:
    """What a site tells of its cells: sums to the first question, histograms of its validation cells to the second."""
    logits, labels = job.logits(part.validation, weights)
    if question:
        return _counts(job, part, logits[labels >= 0], question)
    profiles = ProfileSums.zeros(job.model.n_types, job.features.n_genes)
    for x, y in job.batches(part.train):
        profiles.add(x, y)
    return {"likelihood": likelihood_sums(logits, labels)} | {name: getattr(profiles, name) for name in SUMS}


def _counts(job: Job, part: Part, logits: Tensor, question: Arrays) -> Arrays:
    """Histograms as the rows of their bins that are not empty (``filled``): a few bytes for each cell."""
    rows = part.validation[job.features.labels[part.validation] >= 0]
    labels = torch.from_numpy(job.features.labels[rows])
    of_true = (logits.double() / float(question["temperature"][0])).softmax(dim=1).gather(1, labels[:, None])[:, 0]
    profiles = ProfileSums(*(question[name] for name in SUMS))
    scores, novelty = np.zeros((job.model.n_types, BINS), np.int64), np.zeros(BINS, np.int64)
    np.add.at(scores, (labels.numpy(), score_bins(of_true).long().numpy()), 1)
    for x, _ in job.batches(rows):
        np.add.at(novelty, novelty_bins(profiles.novelty(x)).long().numpy(), 1)
    return {"scores": filled(scores).astype(np.uint32), "novelty": filled(novelty).astype(np.uint32)}


def moments(job: Job, part: Part, weights: Weights, question: Arrays) -> Arrays:
    """The sums from which the server solves a linear classifier: all the training that there is."""
    with job.meter.phase(FIT, 1, part.name):
        sums = Moments.of(job.batches(part.train), job.model.n_types, job.features.n_genes).half()
    entry = job.meter.entry(FIT, 1, part.name)
    entry.cells += len(part.train)
    entry.flops += 2 * job.features.n_genes**2 * len(part.train)
    return {name: value.numpy() for name, value in vars(sums).items()}


ANSWERS = {CALIBRATE: calibration_sums, TEST: test_sums, MOMENTS: moments}
