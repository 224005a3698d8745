"""Calibration of trained weights: every site answers two questions with sums over its cells, which are added up."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor

from scfl_green.data.partition import Part
from scfl_green.energy.ledger import CALIBRATE
from scfl_green.models.calibration import (
    BINS,
    TEMPERATURES,
    Calibration,
    best_temperature,
    filled,
    histogram,
    likelihood_sums,
    novelty_bins,
    score_bins,
)
from scfl_green.models.novelty import ProfileSums
from scfl_green.models.prune import Weights
from scfl_green.models.scores import UNLABELLED
from scfl_green.training.job import Job

LOG = logging.getLogger(__name__)
# What travels, in both directions.
Arrays = Mapping[str, np.ndarray]
# Puts a question to every site: yields the name and the answer of each that answers.
Ask = Callable[[Arrays], Iterable[tuple[str, Arrays]]]
# Makes one for weights and the sites that they were trained at: in this process, or by a federation's messages.
Survey = Callable[[Job, Weights, Sequence[Part]], AbstractContextManager[Ask]]
SUMS = ("n", "linear", "squared")


@contextmanager
def in_turn(job: Job, weights: Weights, parts: Sequence[Part]) -> Iterator[Ask]:
    """Ask the parts one after the other in this process."""
    yield lambda question: ((part.name, answer(job, part, weights, question)) for part in parts)


def calibrate(job: Job, weights: Weights, parts: Sequence[Part], survey: Survey = in_turn) -> Calibration | None:
    """What the validation cells of these parts tell of weights that were trained on them; None without such cells, and
    where a hook forbids it. That of the pooled cells, to the bit, whatever the order of answers.

    The first question is empty; the second is the temperature, and the sums from which novelty is measured. Answers
    that no cells can give are left out, with a line in the log.
    """
    if not any(len(part.validation) for part in parts) or any(hook.no_calibration for hook in job.hooks):
        return None
    with job.meter.phase(CALIBRATE), survey(job, weights, parts) as ask:
        sums = _added(ask({}), lambda sums: _check_sums(sums, job.model.n_types, job.features.n_genes))
        if sums is None:
            return None
        temperature = best_temperature(sums["likelihood"])
        question = {"temperature": np.array([temperature])} | {name: sums[name] for name in SUMS}
        counts = _added(ask(question), lambda rows: _histograms(rows, job.model.n_types))
    if counts is None or not counts["scores"].any():
        return None
    return Calibration(temperature, counts["scores"], counts["novelty"], ProfileSums(*(sums[name] for name in SUMS)))


def _added(answers: Iterable[tuple[str, Arrays]], read: Callable[[Arrays], Arrays]) -> dict[str, np.ndarray] | None:
    """The sum of the answers that ``read`` finds no fault with; None if there are none."""
    good = []
    for site, arrays in answers:
        try:
            good.append(read(arrays))
        except (ValueError, KeyError) as error:
            LOG.warning("calibration without %s: %s", site, error)
    return {name: np.sum([arrays[name] for arrays in good], axis=0) for name in good[0]} if good else None


def _check_sums(sums: Arrays, n_types: int, n_genes: int) -> Arrays:
    """An answer to the first question; ValueError or KeyError for what no site can give."""
    expected = ProfileSums.zeros(n_types, n_genes)
    shapes = {"likelihood": TEMPERATURES.shape} | {name: getattr(expected, name).shape for name in SUMS}
    if {name: array.shape for name, array in sums.items()} != shapes:
        raise ValueError("sums of other shapes")
    losses = sums["likelihood"]
    if any(array.dtype != np.int64 for array in sums.values()) or (losses < 0).any() or (losses >= 2**56).any():
        raise ValueError("sums that no cells have")
    ProfileSums(*(sums[name] for name in SUMS)).checked()
    return sums


def _histograms(rows: Arrays, n_types: int) -> Arrays:
    """The histograms of an answer to the second question; ValueError or KeyError for what no site can give."""
    if any(rows[name].dtype != np.uint32 or rows[name].ndim != 2 for name in ("scores", "novelty")):
        raise ValueError("histograms of another form")
    scores = histogram(rows["scores"].astype(np.int64), (n_types, BINS))
    novelty = histogram(rows["novelty"].astype(np.int64), (BINS,))
    if scores.sum() != novelty.sum():
        raise ValueError("histograms of different numbers of cells")
    return {"scores": scores, "novelty": novelty}


def answer(job: Job, part: Part, weights: Weights, question: Arrays) -> Arrays:
    """What a site tells of its cells: sums to the first question, histograms of its validation cells to the second."""
    logits, labels = job.logits(part.validation, weights)
    if question:
        return _counts(job, part, logits[labels != UNLABELLED], question)
    profiles = ProfileSums.zeros(job.model.n_types, job.features.n_genes)
    for x, y in job.batches(part.train):
        profiles.add(x, y)
    return {"likelihood": likelihood_sums(logits, labels)} | {name: getattr(profiles, name) for name in SUMS}


def _counts(job: Job, part: Part, logits: Tensor, question: Arrays) -> Arrays:
    """Histograms as the rows of their bins that are not empty (``filled``): a few bytes for each cell."""
    rows = part.validation[job.features.labels[part.validation] != UNLABELLED]
    labels = torch.from_numpy(job.features.labels[rows])
    of_true = (logits.double() / float(question["temperature"][0])).softmax(dim=1).gather(1, labels[:, None])[:, 0]
    profiles = ProfileSums(*(question[name] for name in SUMS))
    scores, novelty = np.zeros((job.model.n_types, BINS), np.int64), np.zeros(BINS, np.int64)
    np.add.at(scores, (labels.numpy(), score_bins(of_true).long().numpy()), 1)
    for x, _ in job.batches(rows):
        np.add.at(novelty, novelty_bins(profiles.novelty(x)).long().numpy(), 1)
    return {"scores": filled(scores).astype(np.uint32), "novelty": filled(novelty).astype(np.uint32)}
