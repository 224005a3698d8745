"""Calibration of trained weights: every site answers two questions with sums over its cells, which are added up."""

import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from scfl_green.data.partition import Part
from scfl_green.energy.ledger import CALIBRATE
from scfl_green.models.calibration import BINS, TEMPERATURES, Calibration, best_temperature, histogram
from scfl_green.models.novelty import ProfileSums
from scfl_green.models.prune import Weights
from scfl_green.training.job import Job
from scfl_green.training.survey import SUMS, Arrays, Survey, in_turn

LOG = logging.getLogger(__name__)


def calibrate(job: Job, weights: Weights, parts: Sequence[Part], survey: Survey = in_turn) -> Calibration | None:
    """What the validation cells of these parts tell of weights that were trained on them; None without such cells, and
    where a hook forbids it. That of the pooled cells, to the bit, whatever the order of answers.

    The first question is empty; the second is the temperature, and the sums from which novelty is measured. Answers
    that no cells can give are left out, with a line in the log.
    """
    if not any(len(part.validation) for part in parts) or any(hook.no_calibration for hook in job.hooks):
        return None
    train, validation = (_most(parts, role) for role in ("train", "validation"))
    n_types, n_genes = job.model.n_types, job.features.n_genes
    with job.meter.phase(CALIBRATE), survey(job, weights, parts) as ask:
        sums = _added(ask(CALIBRATE, {}), train, lambda sums, most: _check_sums(sums, n_types, n_genes, most))
        if sums is None:
            return None
        temperature = best_temperature(sums["likelihood"])
        question = {"temperature": np.array([temperature])} | {name: sums[name] for name in SUMS}
        counts = _added(ask(CALIBRATE, question), validation, lambda rows, most: _histograms(rows, n_types, most))
    if counts is None or not counts["scores"].any():
        return None
    return Calibration(temperature, counts["scores"], counts["novelty"], ProfileSums(*(sums[name] for name in SUMS)))


def _most(parts: Sequence[Part], role: str) -> Callable[[str], int]:
    """How many cells of a role a site has told of; or all of them, which may answer together."""
    cells = {part.name: len(getattr(part, role)) for part in parts}
    return lambda site: cells.get(site, sum(cells.values()))


def _added(
    answers: Iterable[tuple[str, Arrays]], most: Callable[[str], int], read: Callable[[Arrays, int], Arrays]
) -> dict[str, np.ndarray] | None:
    """The sum of the answers that ``read`` finds no fault with, given the most cells of a site; None if there are
    none."""
    good = []
    for site, arrays in answers:
        try:
            good.append(read(arrays, most(site)))
        except (ValueError, KeyError) as error:
            LOG.warning("calibration without %s: %s", site, error)
    return {name: np.sum([arrays[name] for arrays in good], axis=0) for name in good[0]} if good else None


def _check_sums(sums: Arrays, n_types: int, n_genes: int, most_cells: int) -> Arrays:
    """An answer to the first question; ValueError or KeyError for what no site can give."""
    expected = ProfileSums.zeros(n_types, n_genes)
    shapes = {"likelihood": TEMPERATURES.shape} | {name: getattr(expected, name).shape for name in SUMS}
    if {name: array.shape for name, array in sums.items()} != shapes:
        raise ValueError("sums of other shapes")
    losses = sums["likelihood"]
    if any(array.dtype != np.int64 for array in sums.values()) or (losses < 0).any() or (losses >= 2**56).any():
        raise ValueError("sums that no cells have")
    if ProfileSums(*(sums[name] for name in SUMS)).checked().n.sum() > most_cells:
        raise ValueError("sums of more cells than it has told")
    return sums


def _histograms(rows: Arrays, n_types: int, most_cells: int) -> Arrays:
    """The histograms of an answer to the second question; ValueError or KeyError for what no site can give."""
    if any(rows[name].dtype != np.uint32 or rows[name].ndim != 2 for name in ("scores", "novelty")):
        raise ValueError("histograms of another form")
    scores = histogram(rows["scores"].astype(np.int64), (n_types, BINS))
    novelty = histogram(rows["novelty"].astype(np.int64), (BINS,))
    if scores.sum() != novelty.sum():
        raise ValueError("histograms of different numbers of cells")
    if scores.sum() > most_cells:
        raise ValueError("histograms of more cells than it has told")
    return {"scores": scores, "novelty": novelty}
